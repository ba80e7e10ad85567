"""Pre-training of the demo's trunk: it learns, repeats itself, and never draws an unseen class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.errors import DataError
from training.demo import dataset, pretrain
from training.demo.dataset import Drawings
from training.demo.pretrain import SPEC, HeadOutputs, PretrainConfig, to_batch
from training.demo.world import ATTRIBUTES, SEEN

TINY = PretrainConfig(per_class=1, held_out_per_class=1, epochs=2, batch_size=24, base_width=4)
STEPS = 2 * -(-len(SEEN) // 24)


@pytest.fixture(scope="module")
def asked():
    """Classes and seed of all drawings that the pre-training of `trained` asked for."""
    return []


@pytest.fixture(scope="module")
def trained(asked):
    steps: list[tuple[str, int, int]] = []

    def spy(classes, spec, **options):
        asked.append((classes, options["seed"]))
        return dataset.render_inputs(classes, spec, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pretrain, "render_inputs", spy)
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


@pytest.mark.usefixtures("trained")
def test_training_and_the_choice_among_epochs_see_seen_classes_and_separate_drawings_only(asked):
    assert [classes for classes, _ in asked] == [SEEN, SEEN]
    assert asked[0][1] != asked[1][1]


def test_a_pass_has_every_drawing_with_its_own_labels_in_batches_of_one_size():
    pixels = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 64 * 64 * 3).reshape(10, 64, 64, 3)
    attributes = np.arange(10, dtype=np.float32)[:, None]
    drawings = Drawings(pixels=pixels, labels=np.arange(10), attributes=attributes, classes=SEEN[:10])
    config = PretrainConfig(batch_size=4)
    batches = list(pretrain._batches(drawings, config, np.random.default_rng(0), "cpu"))
    assert [len(labels) for _, labels, _ in batches] == [4, 4, 4]
    assert set(torch.cat([labels for _, labels, _ in batches]).tolist()) == set(range(10))
    for x, labels, shown in batches:
        torch.testing.assert_close(shown[:, 0], labels.float())
        torch.testing.assert_close(x, to_batch(pixels[labels]))


def test_each_input_is_mirrored_moved_and_relit_by_its_own_chance():
    torch.manual_seed(0)
    ramp = torch.arange(64.0).expand(1, 3, 64, 64).repeat(200, 1, 1, 1)
    moved = pretrain._augment(ramp, shift=3)
    slope = (moved[:, 0, 0, 40] - moved[:, 0, 0, 20]) / 20
    assert 0.3 < (slope < 0).float().mean() < 0.7  # mirrored
    assert slope.abs().std() > 0.05  # re-lit
    column = (moved / slope.abs()[:, None, None, None])[slope > 0, 0, 0, 32].round()
    assert set(range(29, 36)) <= set(column.int().tolist())  # moved by up to 3 pixels to either side


def test_turned_hues_leave_grey_and_brightness_as_they_are():
    torch.manual_seed(0)
    x = torch.rand(60, 3, 4, 4)
    x[:, :, 0] = 0.25  # a grey row
    out, turned = pretrain._recolour(x, 0.5)
    assert 15 < turned.sum() < 45
    torch.testing.assert_close(out[~turned], x[~turned])
    torch.testing.assert_close(out[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(out.mean(dim=1), x.mean(dim=1))
    torch.testing.assert_close(out.norm(dim=1), x.norm(dim=1))
    assert (out - x).abs().amax(dim=(1, 2, 3))[turned].median() > 0.3


def test_the_loss_of_an_input_with_turned_hues_leaves_out_its_class_and_its_colour():
    torch.manual_seed(0)
    criterion = pretrain._Criterion(PretrainConfig(attribute_weight=2.0, label_smoothing=0.0))
    classes = torch.randn(2, len(SEEN), dtype=torch.float64)
    logits = torch.randn(2, len(ATTRIBUTES), dtype=torch.float64)
    shown = torch.rand(2, len(ATTRIBUTES), dtype=torch.float64)
    labels = torch.tensor([3, 5])
    loss = criterion(HeadOutputs(classes, logits), labels, shown, torch.tensor([False, True]))
    p = logits.sigmoid()
    entropy = -(shown * p.log() + (1 - shown) * (1 - p).log())
    kept = [i for i, name in enumerate(ATTRIBUTES) if not name.startswith("colour_") and name != "warm"]
    told = torch.cat([entropy[0], entropy[1, kept]])
    expected = -classes.log_softmax(dim=1)[0, 3] + 2 * told.mean()
    torch.testing.assert_close(loss, expected)


def test_a_batch_is_normalised_as_the_preprocessing_says():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    x = to_batch(pixels)
    mean, std = np.array(SPEC.mean), np.array(SPEC.std)
    np.testing.assert_allclose(x.permute(0, 2, 3, 1).numpy(), (pixels / 255 - mean) / std, atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"seed": -1}, {"recoloured": 1.0}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(DataError, match=next(iter(bad))):
        PretrainConfig(**bad)
