"""Proof that a bundle sees photos as the training did.

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


def verify(bundle: Bundle, trained: Trained) -> int:
    """Run the trunk of a bundle on some photos of the training, spread evenly over the classes.

    Args:
        bundle: the bundle, whose loading has checked every hash and every shape.
        trained: the run it was exported from, whose photos are where they were.

    Returns:
        The number of photos.

    Raises:
        BundleError: the bundle gives other features of a photo than the training had; names it.
        DataError: a photo is gone or has changed.
    """
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
            f"{bundle.path}: gives other features of {photos.images[rows[worst]].path} than the training had: "
            f"they differ by {differences_N[worst]:.1e} of the largest, at most {TOLERANCE:.0e} is allowed"
        )
    return len(rows)
