"""What the words of a report mean: networks, losses and scores."""

from __future__ import annotations

from training.reporting.page import definitions, paragraph, section

FIRST = 3  # of them are not folded away
WORDS = (
    (
        "E_s, the student's embedding",
        "The layer that turns the features of an image into the numbers by which classes are told apart. It is what "
        "the bundle serves: every class is a point among these numbers, and an image belongs to the class that it lies "
        "nearest to.",
    ),
    (
        "C_s, the student's classifier",
        "The layer that the paper puts behind E_s: one score for each class it was trained with. It cannot take a "
        "class that comes later, so it is measured here and not served.",
    ),
    (
        "L_be",
        "How far the student's embedding is from the teacher's: two images of one class shall look alike when the one "
        "is seen by E_s and the other by E_o, and images of two classes shall not. It hands down what the teacher has "
        "learnt from real images.",
    ),
    (
        "E_o and C_o, the teacher",
        "A network that has learnt the seen classes only, from real images. It knows what a familiar image looks like, "
        "and does not change while the student learns.",
    ),
    (
        "G, the generator",
        "Makes features of classes without images from their descriptions, so that the student can learn these too.",
    ),
    ("L_cls", "How often the student is wrong about the class. The other losses are added to it."),
    ("L_kl", "How far the student's opinion about seen classes is from the teacher's."),
    (
        "L_od",
        "How well the student tells what is familiar to the teacher from what is not. It keeps the student from taking "
        "everything for a seen class.",
    ),
    (
        "U, S and H",
        "U: the share of images of unseen classes that are named right, with all classes to choose from; S: the same "
        "of seen classes; H: their harmonic mean, which is high only where both are.",
    ),
    (
        "seen penalty",
        "What is taken off the scores of seen classes, since a classifier prefers what it was trained on. It is chosen "
        "on classes that were hidden for this purpose.",
    ),
)


def words() -> str:
    """The section of the report."""
    return section(
        "What the words mean",
        definitions(WORDS[:FIRST]),
        "<details><summary>Teacher, generator, the other losses, U, S and H</summary>",
        definitions(WORDS[FIRST:]),
        paragraph("The formulas are in the page on training of the documentation.", "note"),
        "</details>",
    )
