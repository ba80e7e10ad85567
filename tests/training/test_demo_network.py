"""The slim ResNet has ResNet-101's layers, a small file, and a start from which it can train."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import resnet101

from training.demo.pretrain import BLOCKS, Bottleneck, SlimResNet, TwoHeadNet


def weighted_layers(network: nn.Module) -> int:
    """Layers as the name ResNet-101 counts them: convolutions off the shortcuts, and one classifier."""
    return (
        sum(
            isinstance(module, nn.Conv2d) and "shortcut" not in name and "downsample" not in name
            for name, module in network.named_modules()
        )
        + 1
    )


def layers(network: nn.Module) -> list[tuple[object, ...]]:
    return [(m.out_channels, m.kernel_size, m.stride) for m in network.modules() if isinstance(m, nn.Conv2d)]


def test_it_has_the_101_layers_of_the_original_in_the_same_order():
    slim, original = SlimResNet(base_width=64), resnet101()
    assert weighted_layers(slim) == weighted_layers(original) == 101
    assert layers(slim)[1:] == layers(original)[1:]  # the stem is twice as wide
    assert layers(slim)[0] == (128, (7, 7), (2, 2))
    assert slim.feature_dim == original.fc.in_features == 2048


def test_the_demo_width_fits_the_bundle():
    trunk = SlimResNet()
    assert trunk.feature_dim == 256
    assert sum(p.numel() for p in trunk.parameters()) * 4 < 4_500_000


@pytest.mark.parametrize("side", [32, 64, 96])
def test_features_are_one_rectified_vector_per_image(side):
    trunk = SlimResNet(base_width=4, blocks=(1, 1, 2, 1)).eval()
    x = torch.randn(3, 3, side, side)
    features = trunk(x)
    assert features.shape == (3, trunk.feature_dim)
    assert features.min() >= 0
    torch.testing.assert_close(trunk(x[1:2]), features[1:2], rtol=1e-4, atol=1e-5)


def test_every_block_starts_as_its_shortcut():
    block = next(m for m in SlimResNet(base_width=4).modules() if isinstance(m, Bottleneck))
    x = torch.randn(2, block.conv1.in_channels, 8, 8)
    torch.testing.assert_close(block(x), block.shortcut(x).relu())


def test_gradients_reach_the_first_layer_through_all_101():
    torch.manual_seed(0)
    network = TwoHeadNet(SlimResNet(base_width=4), classes=5, attributes=7)
    classes, attributes = network(torch.randn(8, 3, 64, 64))
    assert classes.shape == (8, 5)
    assert attributes.shape == (8, 7)
    (classes.square().mean() + attributes.square().mean()).backward()
    gradient = network.trunk.conv1.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert len(BLOCKS) == 4


def test_neither_the_core_of_model_nor_the_renderer_imports_torch():
    script = "import sys, model.preprocess, training.demo.dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
