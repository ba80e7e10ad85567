"""The section of a report with test photos that the served head takes for another class.

The photos are read where they were. One that is gone or has changed is named only.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from model.errors import ImageError
from model.images.reading import decode_image
from training.console import plural
from training.reporting.page import Fields, paragraph, section, table

SIDE = 128  # pixels of a thumbnail at most
MOST_BYTES = 600_000  # of all thumbnails
_QUALITY = 80


def mistakes(curves: Fields) -> str:
    """Test photos that are taken for another class, first those of unseen classes; empty for features without photos.

    Args:
        curves: of `curves.json`.
    """
    found = curves.get("mistakes")
    if found is None:
        return ""
    groups = {"unseen": "of unseen classes", "seen": "of seen classes"}
    root, room = Path(found["root"]), MOST_BYTES
    parts: list[str] = []
    named: list[Fields] = []
    for kind, title in groups.items():
        shown = [entry for entry in found["shown"] if entry["kind"] == kind]
        figures = []
        for entry in shown:
            thumbnail = _thumbnail(root, entry) if room > 0 else None
            if thumbnail is None or len(thumbnail) > room:
                named.append(entry)
                continue
            room -= len(thumbnail)
            figures.append(_figure(entry, thumbnail))
        wrong, total = found["wrong"][kind], found["rows"][kind]
        parts.append(paragraph(f"{wrong} of {plural(total, 'test photo')} {title} are taken for another class."))
        if figures:
            parts.append(f'<div class="photos">{"".join(figures)}</div>')
    parts += _others(named, root)
    said = (
        "Chosen over the classes in turn, of each class the surest mistakes first. The number is the probability of "
        "what the photo is taken for."
    )
    return section("Photos that are named wrong", paragraph(said, "note"), *parts)


def _others(named: Sequence[Fields], root: Path) -> list[str]:
    """A table of the photos that are not shown."""
    if not named:
        return []
    rows = [(e["path"], e["class"], e["taken_for"], f"{e['probability']:.2f}") for e in named]
    said = paragraph(
        f"{plural(len(named), 'photo')} not shown: no longer under {root} as in the training, or too large together.",
        "note",
    )
    return [said, table(("photo", "class", "taken for", "probability"), rows, style="text")]


def _figure(entry: Fields, thumbnail: bytes) -> str:
    data = base64.b64encode(thumbnail).decode()
    said = f"{entry['class']}, taken for {entry['taken_for']}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{escape(said)}" title="{escape(entry["path"])}"/>'
        f"<figcaption><strong>{escape(entry['class'])}</strong><br/>taken for {escape(entry['taken_for'])}, "
        f"{entry['probability']:.2f}</figcaption></figure>"
    )


def _thumbnail(root: Path, entry: Fields) -> bytes | None:
    """A small JPEG without anything but its pixels; None where the photo is not what it was."""
    try:
        content = (root / entry["path"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return None
        image = Image.fromarray(decode_image(content))
    except (OSError, ImageError):
        return None
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
