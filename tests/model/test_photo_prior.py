"""A class with example photos: its posterior mean, and how far it counts as seen."""

from __future__ import annotations

import numpy as np
import pytest

from model.head import HeadSpec
from model.lda import LdaHead
from model.photos import PhotoPrior

PRIOR = PhotoPrior(described=2.0, undescribed=1.0, fade=3.0)
RANDOM = np.random.default_rng(5)
DESCRIBED, PHOTOS = RANDOM.standard_normal(7), RANDOM.standard_normal((4, 7)).astype(np.float32)


def test_mean_weighs_the_description_as_so_many_photos() -> None:
    expected = [
        (2 * DESCRIBED[j] + sum(float(photo[j]) for photo in PHOTOS)) / (2 + len(PHOTOS)) for j in range(len(DESCRIBED))
    ]
    np.testing.assert_allclose(PRIOR.mean(DESCRIBED, PHOTOS), expected, rtol=1e-14)
    np.testing.assert_allclose(PRIOR.mean(None, PHOTOS), PHOTOS.astype(np.float64).sum(axis=0) / 5, rtol=1e-14)


def test_without_photos_it_is_the_description() -> None:
    np.testing.assert_array_equal(PRIOR.mean(DESCRIBED, np.empty((0, 7))), DESCRIBED)


def test_photos_outweigh_any_description_in_the_end() -> None:
    many = np.tile(PHOTOS[:1], (100_000, 1))
    np.testing.assert_allclose(PRIOR.mean(DESCRIBED, many), PHOTOS[0], atol=1e-3)


@pytest.mark.parametrize(("photos", "share", "scale"), [(0, 0.0, 1.5), (3, 0.5, 1.25), (9, 0.75, 1.125)])
def test_penalty_comes_and_scale_goes_with_photos(photos: int, share: float, scale: float) -> None:
    assert PRIOR.seen_share(photos) == pytest.approx(share)
    assert PRIOR.scale(1.5, photos) == pytest.approx(scale)
    assert PRIOR.scale(1.0, photos) == 1.0


@pytest.mark.parametrize("name", ["described", "undescribed", "fade"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_are_above_0(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"photos: expected {name} above 0"):
        PhotoPrior(**{**PRIOR.to_json(), name: value})


def test_a_head_keeps_its_prior_and_is_the_same_without() -> None:
    spec = HeadSpec(dimension=7, samples=3, noise_dimension=2, shrinkage=0.5, photos=PRIOR)
    assert HeadSpec.from_json(spec.to_json()) == spec
    assert spec.to_json()["photos"] == {"described": 2.0, "undescribed": 1.0, "fade": 3.0}
    plain = HeadSpec(dimension=7, samples=3, noise_dimension=2, shrinkage=0.5)
    assert "photos" not in plain.to_json()
    assert HeadSpec.from_json(plain.to_json()).photos is None


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("photos", [2, 3, 7])
def test_scores_without_a_photo_are_those_of_the_row_made_without_it(described: bool, photos: int) -> None:
    random = np.random.default_rng(photos)
    prior, unseen_scale = PhotoPrior(described=2.5, undescribed=0.5, fade=3.0), 1.4
    factor = np.tril(random.standard_normal((6, 6))) + 3 * np.eye(6)
    head = LdaHead(factor).scaled(unseen_scale)
    prior_mean = random.standard_normal(6) if described else None
    z = random.standard_normal((photos, 6))

    def served(of: np.ndarray) -> tuple[np.ndarray, float]:
        weight, bias = head.rows(prior.mean(prior_mean, of)[None])
        scale = prior.scale(unseen_scale, len(of)) / unseen_scale
        return scale * weight[0], scale * float(bias[0])

    weight, bias = served(z)
    found = prior.left_out_scores(weight, bias, z, head.squares(z), described=described, unseen_scale=unseen_scale)
    for i in range(photos):
        without, bias_without = served(np.delete(z, i, axis=0))
        assert found[i] == pytest.approx(z[i] @ without + bias_without, rel=1e-5, abs=1e-6)
