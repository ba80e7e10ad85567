"""The class table of a run on disk: it stays the same while the registry moves on, and other machines can read it.

C: classes, Z: embedding dimension.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from model.classes import ClassEntry
from model.head import Row
from service.classes.snapshot import KnownClass, Snapshot

CLASSES, ROWS = "classes.json", "rows.npz"


def write_classes(folder: Path, snapshot: Snapshot) -> None:
    """Write the classes as JSON and their rows, weight float32 [C, Z] and bias float32 [C]."""
    entries = [
        {"entry": known.entry.to_json(), "registry_version": known.registry_version} for known in snapshot.classes
    ]
    np.savez(folder / ROWS, weight=snapshot.weight, bias=snapshot.bias)
    fields = {"registry_version": snapshot.registry_version, "classes": entries}
    (folder / CLASSES).write_text(json.dumps(fields), encoding="utf-8")


def read_classes(folder: Path) -> Snapshot:
    """The snapshot that was written."""
    fields = json.loads((folder / CLASSES).read_bytes())
    with np.load(folder / ROWS, allow_pickle=False) as arrays:
        weight, bias = arrays["weight"], arrays["bias"]
    known = [
        KnownClass(entry=ClassEntry.from_json(one["entry"]), registry_version=one["registry_version"])
        for one in fields["classes"]
    ]
    rows = [Row(w, float(b)) for w, b in zip(weight, bias, strict=True)]
    return Snapshot.build(fields["registry_version"], known, rows, dimension=weight.shape[1])
