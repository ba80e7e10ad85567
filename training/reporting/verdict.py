"""What a run's results mean, in plain sentences for people who do not know the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.reporting.page import Fields, paragraph, section

HARDLY = 2.0  # times as good as guessing: less is hardly better
LEANING = 0.25  # by so much S may lie above U
FEW_PHOTOS = 100
_LISTED = 3


def verdict(metrics: Mapping[str, Any] | None, resolved: Fields) -> list[str]:
    """The results of the served head as sentences.

    Args:
        metrics: of `metrics.json`; None where nothing could be tested.
        resolved: of `config.json`.
    """
    photo = "photos" if resolved["data"].get("kind") in ("features", "demo") else "test rows"
    if metrics is None:
        hidden = resolved["selected"]["validation"]["H"]
        return [
            f"Nothing was tested: there are no test {photo.removeprefix('test ')} of unseen classes, or none of seen "
            f"ones. On classes that were hidden from it while everything was chosen, H was {hidden:.2f} of at most 1."
        ]
    served, protocol = metrics["lda"], metrics["protocol"]
    rows, counts = protocol["rows"], protocol["classes"]
    classes = counts["seen"] + counts["unseen"]
    u, s = served["U"], served["S"]
    said = [
        f"Of 100 {photo} of classes it never saw, {_of_hundred(u)} are named right; of 100 {photo} of classes it was "
        f"trained on, {_of_hundred(s)} are. Guessing among the {classes} classes would name {_of_hundred(1 / classes)} "
        "right.",
        f"It was tried on {rows['test_unseen']} {photo} of {counts['unseen']} unseen classes and on "
        f"{rows['test_seen']} of {counts['seen']} seen ones, none of which it was trained on; every class counts the "
        "same."
        + (
            f" So few {photo} say little: other ones could give numbers that are ten higher or lower."
            if min(rows["test_unseen"], rows["test_seen"]) < FEW_PHOTOS
            else ""
        ),
    ]
    if u < HARDLY / classes:
        said.append(
            "That is hardly better than guessing for unseen classes: their descriptions do not tell them apart, or the "
            "backbone does not see what is described."
        )
    elif s - u > LEANING:
        said.append(
            "It leans towards the classes it was trained on: more seen classes, or descriptions that say more of what "
            "is to be seen, would help the others."
        )
    unseen = set(metrics["unseen_classes"])
    worst = sorted((value, name) for name, value in served["per_class"].items() if name in unseen)[:_LISTED]
    if len(worst) > 1:
        named = ", ".join(f"{name} ({_of_hundred(value)} of 100)" for value, name in worst)
        said.append(f"Hardest of the unseen classes: {named}.")
    if protocol["test_used_for_selection"]:
        said.append(
            f"These numbers are too good: settings were chosen by looking at the very {photo} they were measured on."
        )
    return said


def verdict_section(metrics: Mapping[str, Any] | None, resolved: Fields) -> str:
    """The sentences as the first section of a report, the first one set off."""
    first, *rest = verdict(metrics, resolved)
    return section("In plain words", paragraph(first, "verdict"), *map(paragraph, rest))


def _of_hundred(share: float) -> str:
    """A share as a count of 100; a tenth where it is small and not nothing."""
    return f"{100 * share:.0f}" if share == 0 or share >= 0.02 else f"{100 * share:.1f}"
