"""Pre-training of the demo's trunk: it learns, repeats itself, and never draws an unseen class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.errors import DataError
from model.networks.slim_resnet import SlimResNet, TwoHeadNet
from training.demo import check, dataset, pretrain
from training.demo.check import check_trunk
from training.demo.dataset import Drawings
from training.demo.pretrain import SPEC, PretrainConfig, to_batch
from training.demo.world import ATTRIBUTES, EXTRA, SEEN, UNSEEN

TINY = PretrainConfig(per_class=1, held_out_per_class=1, epochs=2, batch_size=24, base_width=4)
STEPS = 2 * -(-len(SEEN) // 24)


@pytest.fixture(scope="module")
def trained():
    steps: list[tuple[str, int, int]] = []
    result = pretrain.pretrain(TINY, progress=lambda *call: steps.append(call))
    return result, steps


def test_a_short_training_lowers_the_loss_and_keeps_the_better_epoch(trained):
    result, steps = trained
    assert len(result.history) == TINY.epochs
    assert result.history[1].train_loss < result.history[0].train_loss
    held_out = [epoch.held_out_loss for epoch in result.history]
    assert held_out[result.best] == min(held_out)
    assert [call for call in steps if call[0] == "training"] == [("training", n, STEPS) for n in range(1, STEPS + 1)]
    assert not result.network.training
    assert result.network.class_head.out_features == len(SEEN)
    assert result.network.attribute_head.out_features == len(ATTRIBUTES)
    features = result.network.trunk(torch.zeros(1, 3, SPEC.size, SPEC.size))
    assert features.shape == (1, 32 * TINY.base_width)


def test_the_same_seed_gives_the_same_weights(trained):
    again = pretrain.pretrain(TINY).network.state_dict()
    for name, value in trained[0].network.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0, msg=name)


def test_training_and_the_choice_among_epochs_see_seen_classes_and_separate_drawings_only(monkeypatch):
    asked = []

    def spy(classes, spec, **options):
        asked.append((classes, options["seed"]))
        return dataset.render_inputs(classes, spec, **options)

    monkeypatch.setattr(pretrain, "render_inputs", spy)
    pretrain.pretrain(TINY)
    assert [classes for classes, _ in asked] == [SEEN, SEEN]
    assert asked[0][1] != asked[1][1]


def test_each_input_is_augmented_by_its_own_chance_and_labels_stay_with_their_drawings():
    torch.manual_seed(0)
    pixels = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 64 * 64 * 3).reshape(10, 64, 64, 3)
    attributes = np.arange(10, dtype=np.float32)[:, None]
    drawings = Drawings(pixels=pixels, labels=np.arange(10), attributes=attributes, classes=SEEN[:10])
    config = PretrainConfig(batch_size=4)
    batches = list(pretrain._batches(drawings, config, np.random.default_rng(0), "cpu"))
    assert [len(labels) for _, labels, _ in batches] == [4, 4, 4]
    assert set(torch.cat([labels for _, labels, _ in batches]).tolist()) == set(range(10))
    for x, labels, shown in batches:
        torch.testing.assert_close(shown[:, 0], labels.float())
        order = x.mean(dim=(1, 2, 3)).argsort()
        assert labels[order].diff().min() >= -2  # brightness still tells which drawing it is, but for the re-lighting
    ramp = torch.arange(64.0).expand(1, 3, 64, 64).repeat(200, 1, 1, 1)
    moved = pretrain._augment(ramp, shift=3)
    slope = (moved[:, 0, 0, 40] - moved[:, 0, 0, 20]) / 20
    assert 0.3 < (slope < 0).float().mean() < 0.7  # mirrored
    start = (moved[:, 0, 0, 32] - moved[:, 0, 0, 31]).abs()
    assert start.std() > 0.05  # re-lit


def test_a_batch_is_normalised_as_the_preprocessing_says():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    x = to_batch(pixels)
    mean, std = np.array(SPEC.mean), np.array(SPEC.std)
    np.testing.assert_allclose(x.permute(0, 2, 3, 1).numpy(), (pixels / 255 - mean) / std, atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"seed": -1}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(DataError, match=next(iter(bad))):
        PretrainConfig(**bad)


def test_the_check_gives_full_marks_to_features_that_are_the_attributes(monkeypatch):
    rng = np.random.default_rng(0)

    def attributes_as_features(_trunk, drawings):
        shown = np.stack([drawings.classes[label].attributes() for label in drawings.labels])
        padded = np.pad(shown, ((0, 0), (0, 32 - len(ATTRIBUTES))))
        return padded + 0.01 * rng.standard_normal(padded.shape)

    monkeypatch.setattr(check, "trunk_features", attributes_as_features)
    monkeypatch.setattr(check, "render_inputs", _labels_only)
    network = TwoHeadNet(SlimResNet(base_width=1), classes=len(SEEN), attributes=len(ATTRIBUTES))
    result = check_trunk(network, per_class=4)
    assert result.harmonic == result.registered == 1


def test_the_check_gives_chance_to_features_without_content(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(check, "render_inputs", _labels_only)
    monkeypatch.setattr(check, "trunk_features", lambda _trunk, d: rng.standard_normal((len(d.labels), 32)))
    network = TwoHeadNet(SlimResNet(base_width=1), classes=len(SEEN), attributes=len(ATTRIBUTES))
    result = check_trunk(network, per_class=8)
    assert max(result.head_accuracy, result.harmonic, result.registered) < 0.15


def _labels_only(classes, spec, *, per_class, **_options):
    labels = np.repeat(np.arange(len(classes)), per_class)
    empty = np.zeros((len(labels), 0), dtype=np.float32)
    assert set(classes) <= {*SEEN, *UNSEEN, *EXTRA}
    return Drawings(
        pixels=np.zeros((len(labels), 1, 1, 3), np.uint8), labels=labels, attributes=empty, classes=tuple(classes)
    )
