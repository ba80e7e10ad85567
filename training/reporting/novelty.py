"""The section on novelty: how well each score tells unseen classes from seen ones, and which one is served."""

from __future__ import annotations

from training.reporting.page import Fields, paragraph, section, table

SCORES = {
    "teacher": "teacher's largest log-probability",
    "logit": "head's largest logit among seen classes",
    "energy": "energy",
    "distance": "distance to the nearest seen class",
    "relative_mahalanobis": "relative Mahalanobis distance",
}
"""What each score is, in words."""


def novelty(metrics: Fields | None, selected: Fields) -> str:
    """AUROC of every score on validation and, where there are test results, on the test images.

    Args:
        metrics: of the run, if it was evaluated.
        selected: what validation chose.
    """
    validation = selected["validation"]
    on_validation = validation.get("novelty")
    if on_validation is None:  # a run from before there was a choice
        on_validation = {"teacher": {"auroc": validation["novelty_auroc"], "error": None}}
    served = selected.get("novelty", "teacher")
    of_test = {} if metrics is None else metrics["novelty"].get("aurocs", {"teacher": metrics["novelty"]["auroc"]})
    rows = [
        (
            SCORES[name] + (", served" if name == served else ""),
            f"{found['auroc']:.3f}" + ("" if found["error"] is None else f" ± {found['error']:.3f}"),
            f"{of_test[name]:.3f}" if name in of_test else "–",
        )
        for name, found in on_validation.items()
    ]
    said = (
        "Novelty of an image is the share of held-out images of seen classes that looked more familiar. AUROC: how "
        "often an image of an unseen class looks newer than one of a seen class, 0.5 by chance; mean over unseen "
        "classes, ± its standard error."
    )
    none = "" if served else paragraph("No score beats chance by two standard errors, so none is served.", "warn")
    return section("Novelty", paragraph(said), none, table(("score", "AUROC, validation", "AUROC, test"), rows))
