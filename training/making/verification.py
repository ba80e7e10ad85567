"""Proof that a bundle is whole and sees photos as the training did.

N: photos, D: features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.bundle import Bundle
from model.errors import BundleError
from training.exporting.run_images import RunImages
from training.features.scaler import evenly
from training.features.store import FeatureStore
from training.onnx_files import open_session
from training.runs.contents import Trained

MOST_PHOTOS = 16
TOLERANCE = 1e-3  # of the largest feature; other sizes of batches round in another way


def verify(out: Path, trained: Trained) -> int:
    """Load a bundle, and run its trunk on some photos of the training, spread evenly over the classes.

    Args:
        out: the bundle: every hash and every shape is checked.
        trained: the run it was exported from, whose photos are where they were.

    Returns:
        The number of photos.

    Raises:
        BundleError: the bundle is damaged, or gives other features of a photo than the training had; names it.
        DataError: a photo is gone or has changed.
    """
    bundle = Bundle.load(out)
    photos = RunImages.of(trained)
    store = FeatureStore.load(Path(trained.data["path"]))
    rows = evenly(len(photos.images), MOST_PHOTOS).tolist()
    session = open_session(bundle.trunk.read_bytes())
    found_ND = np.concatenate([session.run(["features"], {"image": pixels})[0] for pixels in photos.pixels(rows)])
    wanted_ND = store.features[rows]
    differences_N = np.abs(found_ND - wanted_ND).max(axis=1) / max(float(np.abs(wanted_ND).max()), 1e-12)
    if not (differences_N <= TOLERANCE).all():
        worst = int(differences_N.argmax())
        raise BundleError(
            f"{out}: gives other features of {photos.images[rows[worst]].path} than the training had: they differ by "
            f"{differences_N[worst]:.1e} of the largest, at most {TOLERANCE:.0e} is allowed"
        )
    return len(rows)
