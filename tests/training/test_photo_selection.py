"""How much photos count against a description: H with photos against a plain rendition, and what is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.lda import LdaHead, shrunk_cholesky
from model.photos import PhotoPrior
from training.metrics import gzsl_scores
from training.selection.photos import (
    MOST,
    PhotoFold,
    Photos,
    PhotoScores,
    choose_photo_prior,
    draw_photos,
    subsets,
)

CLASSES, UNSEEN, Z, ROWS = 9, 3, 6, 12
SEEN = np.arange(CLASSES) < CLASSES - UNSEEN
PRIOR = PhotoPrior(described=1.5, undescribed=0.7, fade=2.5)


class World:
    """Rows around class means, of which some classes are known by a guess only."""

    def __init__(self, seed: int, *, error: float, noise: float) -> None:
        random = np.random.default_rng(seed)
        self.true = 2 * random.standard_normal((CLASSES, Z))
        self.means = self.true + error * random.standard_normal((CLASSES, Z)) * ~SEEN[:, None]
        self.labels = np.arange(ROWS * CLASSES) % CLASSES
        self.rows = (self.true[self.labels] + noise * random.standard_normal((len(self.labels), Z))).astype(np.float32)
        self.head = LdaHead(shrunk_cholesky(noise**2 * np.eye(Z), 0.5))
        self.photos = draw_photos(self.labels, SEEN, seed)

    def logits(self, means: NDArray[np.float64]) -> NDArray[np.float32]:
        weight, bias = self.head.rows(means)
        return self.rows @ weight.T + bias

    def fold(self, *, penalty: float, scale: float) -> PhotoFold:
        weight, _ = self.head.rows(self.rows[self.photos].reshape(-1, Z))
        products = (self.rows @ weight.T).reshape(len(self.rows), *self.photos.shape)
        scores = PhotoScores(products=products, bias=self.head.rows(self.means)[1])
        return PhotoFold.of(
            self.logits(self.means),
            self.labels,
            SEEN,
            Photos(rows=self.photos, scores={"lda": scores}),
            "lda",
            penalty=penalty,
            unseen_scale=scale,
        )

    def plain_h(self, chosen: tuple[int, ...], *, penalty: float, scale: float, described: bool) -> float:
        """The same by making every class's row anew."""
        means = self.means.copy()
        for place, index in enumerate(np.flatnonzero(~SEEN)):
            photos = self.rows[self.photos[place, list(chosen)]]
            means[index] = PRIOR.mean(self.means[index] if described else None, photos)
        scores = self.logits(means).astype(np.float64)
        scores[:, ~SEEN] *= PRIOR.scale(scale, len(chosen))
        scores -= penalty * np.where(SEEN, 1.0, PRIOR.seen_share(len(chosen)))
        kept = np.setdiff1d(np.arange(len(self.rows)), self.photos)
        return gzsl_scores(scores[kept], self.labels[kept], SEEN).H


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize(("penalty", "scale"), [(0.0, 1.0), (1.2, 1.25)])
def test_h_with_photos_is_that_of_rows_made_anew(penalty: float, scale: float, described: bool) -> None:
    world = World(3, error=1.5, noise=1.5)
    fold, found = world.fold(penalty=penalty, scale=scale), set()
    for chosen in subsets(MOST):
        expected = world.plain_h(chosen, penalty=penalty, scale=scale, described=described)
        assert fold.h(PRIOR, chosen, described=described) == pytest.approx(expected, abs=1e-9)
        found.add(round(expected, 6))
    assert len(found) > 2


def test_photos_are_held_out_rows_of_hidden_classes() -> None:
    world = World(0, error=1, noise=1)
    assert world.photos.shape == (UNSEEN, MOST)
    for place, index in enumerate(np.flatnonzero(~SEEN)):
        assert set(world.labels[world.photos[place]]) == {index}
        assert len(set(world.photos[place])) == MOST
    np.testing.assert_array_equal(world.photos, draw_photos(world.labels, SEEN, 0))
    rare = np.array([0, 1, 1, 1, 2, 2, 2, 2])
    assert draw_photos(rare, np.array([True, False, False]), 0).shape == (2, 1)
    assert draw_photos(np.array([0, 1, 2, 2]), np.array([True, False, False]), 0).shape == (2, 0)


def test_every_count_has_all_its_disjoint_sets() -> None:
    assert list(subsets(5)) == [(0,), (1,), (2,), (3,), (4,), (0, 1), (2, 3), (0, 1, 2, 3, 4)]
    assert list(subsets(2)) == [(0,), (1,), (0, 1)]
    assert list(subsets(0)) == []


def test_a_good_description_is_worth_more_photos_than_a_bad_one() -> None:
    def chosen(error: float) -> PhotoPrior:
        found = choose_photo_prior([World(s, error=error, noise=2).fold(penalty=0.0, scale=1.0) for s in range(6)])
        assert found is not None
        assert 0 < found[1] <= 1
        return found[0]

    assert chosen(0.2).described > chosen(4.0).described


def test_without_photos_there_is_no_prior() -> None:
    world = World(0, error=1, noise=1)
    world.photos = world.photos[:, :0]
    assert choose_photo_prior([world.fold(penalty=0.0, scale=1.0)]) is None
    assert choose_photo_prior([]) is None
