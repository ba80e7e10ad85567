"""The served head of a training: real means for seen classes, keyed synthesis for unseen ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from model.errors import DataError
from model.lda import LdaHead
from model.noise import class_noise
from tests.training.tiny import METHODS, config, task
from training.datasets.dataset import Task
from training.method.heads import (
    HeadChoice,
    HeadFit,
    embed,
    fit_head,
    fit_heads,
    synthesise,
    synthesise_features,
)
from training.method.trainer import Networks, train

LDA = HeadChoice(shrinkage=0.4)
NAMES = ["a", "b", "c", "d", "x", "y"]


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=4, unseen=2, rows=9, dim=6)


@pytest.fixture(scope="module")
def networks(small: Task) -> Networks:
    return train(small, config(), epochs=2)


def fitted(networks: Networks, small: Task, names: list[str] = NAMES, key: str = "k", samples: int = 7) -> HeadFit:
    return fit_head(networks, small, names, LDA, samples=samples, key=key)


def test_rows_are_those_of_the_means(networks: Networks, small: Task) -> None:
    head = fitted(networks, small)
    with torch.no_grad():
        z = networks.student.embedding(small.features).numpy().astype(np.float64)
    labels = small.labels.numpy()
    means = [z[labels == index].mean(axis=0) for index in range(4)]
    centre = np.mean(means, axis=0)
    np.testing.assert_allclose(head.centre, centre, rtol=1e-5)
    lda = LdaHead.fit(z - head.centre, labels, shrinkage=0.4)
    for index, name in ((4, "x"), (5, "y")):
        noise = torch.from_numpy(class_noise("k", name, 7, 3, form="matched"))
        with torch.no_grad():
            made = networks.student.embedding(networks.generator(noise, small.attributes[index].repeat(7, 1))).numpy()
        np.testing.assert_array_equal(synthesise(networks, small.attributes[index], "k", name, 7), made)
        means.append(made.astype(np.float64).mean(axis=0))
    for index, mean in enumerate(means):
        row = lda.row((mean - head.centre).astype(np.float32)[None])
        np.testing.assert_allclose(head.weight[index], row.weight, rtol=2e-3, atol=1e-3)
        assert head.bias[index] == pytest.approx(row.bias, rel=2e-3, abs=1e-3)
    expected = (z - centre) @ head.weight.T.astype(np.float64) + head.bias
    np.testing.assert_allclose(head.logits(embed(networks, small.features)), expected, rtol=1e-3, atol=1e-3)


def test_a_row_depends_on_its_id_and_key_and_not_on_its_place(networks: Networks, small: Task) -> None:
    head = fitted(networks, small)
    order = torch.tensor([0, 5, 2, 3, 4, 1])  # x and y among the seen classes
    place = torch.argsort(order)
    moved = dataclasses.replace(
        small, labels=place[small.labels], attributes=small.attributes[order], seen=small.seen[order]
    )
    other = fitted(networks, moved, [NAMES[i] for i in order])
    np.testing.assert_allclose(other.weight, head.weight[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other.bias, head.bias[order], rtol=1e-4, atol=1e-4)
    for changed in (fitted(networks, small, key="another"), fitted(networks, small, [*NAMES[:5], "z"])):
        np.testing.assert_array_equal(changed.weight[:4], head.weight[:4])
        assert not np.array_equal(changed.weight[5], head.weight[5])


def test_embeddings_without_spread_make_no_head(networks: Networks, small: Task) -> None:
    """The same photo over and over, say."""
    flat = dataclasses.replace(small, features=torch.eye(6)[small.labels])
    with pytest.raises(DataError, match=r"no head can be fitted on the embeddings of the training images: .*singular"):
        fitted(networks, flat)


def test_heads_of_several_shrinkages_are_those_of_each(networks: Networks, small: Task) -> None:
    """One pass over rows and noise for all of them; in the order asked for."""
    choices = [HeadChoice(shrinkage=shrinkage) for shrinkage in (0.9, 0.1, 0.4)]
    heads = fit_heads(networks, small, NAMES, choices, samples=7, key="k")
    assert len(heads) == 3
    for choice, head in zip(choices, heads, strict=True):
        alone = fit_head(networks, small, NAMES, choice, samples=7, key="k")
        np.testing.assert_array_equal(head.weight, alone.weight)
        np.testing.assert_array_equal(head.bias, alone.bias)
        np.testing.assert_array_equal(head.centre, alone.centre)
    assert not np.allclose(heads[0].weight, heads[1].weight)


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_a_scale_multiplies_scores_of_described_classes_and_of_those_to_come(
    networks: Networks, small: Task, scale: float
) -> None:
    plain = fit_head(networks, small, NAMES, LDA, samples=7, key="k")
    choice = dataclasses.replace(LDA, unseen_scale=scale)
    head = fit_head(networks, small, NAMES, choice, samples=7, key="k")
    factor = np.where(small.seen.numpy(), 1, scale)
    np.testing.assert_allclose(head.weight, factor[:, None] * plain.weight, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(head.bias, factor * plain.bias, rtol=1e-4, atol=1e-4)
    new = synthesise(networks, small.attributes[5], "k", "z", 7) - head.centre
    np.testing.assert_allclose(head.head.row(new).weight, scale * plain.head.row(new).weight, rtol=1e-4, atol=1e-4)
    assert HeadChoice.named(choice.name) == choice
    assert choice.name == f"lda/0.4/{scale}"


@pytest.mark.parametrize("method", METHODS)
def test_every_sampler_makes_classes_from_keyed_noise(small: Task, method: str) -> None:
    networks = train(small, config(f"generator.method={method}"), epochs=1)
    attributes = small.attributes[4]
    made = synthesise_features(networks, attributes, "k", "x", 9)
    noise = torch.from_numpy(class_noise("k", "x", 9, networks.generator.noise_dim, form="matched"))
    assert noise.shape == (9, 6 if method == "diffusion" else 3)
    with torch.no_grad():
        assert torch.equal(made, networks.generator(noise, attributes.repeat(9, 1)))
        z = networks.student.embedding(made).numpy()
    np.testing.assert_array_equal(synthesise(networks, attributes, "k", "x", 9), z)
    np.testing.assert_array_equal(synthesise(networks, attributes, "k", "x", 9), z)  # and the same again
    assert len({tuple(row) for row in made.tolist()}) == 9
    assert not np.array_equal(synthesise(networks, attributes, "k", "y", 9), z)
    head = fit_head(networks, small, NAMES, LDA, samples=9, key="k")
    assert head.weight.shape == (6, 6)
    assert np.isfinite(head.logits(embed(networks, small.features))).all()
