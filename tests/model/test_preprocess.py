"""Pixels to network input: against a slow plain reference, and frozen by golden hashes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from model.errors import DataError
from model.preprocess import PreprocessSpec, decode_image, preprocess, to_input
from tests.model.photos import encode, picture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resample_axis(values: NDArray[np.float64], start: float, side: float, size: int, kernel) -> NDArray[np.float64]:
    """Antialiased resampling of axis 0 of [L, ...] from start..start + side to `size`."""
    norm_correction = max(side / size, 1.0)
    out = np.zeros((size, *values.shape[1:]))
    for i in range(size):
        centre = start + (i + 0.5) * side / size
        weights = np.array([kernel((k + 0.5 - centre) / norm_correction) for k in range(len(values))])
        out[i] = np.tensordot(weights / weights.sum(), values, axes=1)
    return out


def reference(pixels: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float64]:
    """Resize, crop and normalise with loops in float64."""
    height, width = pixels.shape[:2]
    kernel = {"bilinear": triangle, "bicubic": cubic}[spec.interpolation]
    side = min(height, width) * spec.size / spec.resize
    wide = resample_axis(pixels.transpose(1, 0, 2).astype(float), (width - side) / 2, side, spec.size, kernel)
    square = resample_axis(wide.transpose(1, 0, 2), (height - side) / 2, side, spec.size, kernel)
    out = np.zeros((3, spec.size, spec.size))
    for c in range(3):
        for y in range(spec.size):
            for x in range(spec.size):
                out[c, y, x] = (square[y, x, c] / 255 - spec.mean[c]) / spec.std[c]
    return out


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(16, 16), (16, 18), (24, 32)])
@pytest.mark.parametrize("shape", [(37, 53), (53, 37), (96, 40), (10, 12), (1, 1), (3, 200)], ids=str)
def test_it_is_antialiased_resizing_a_centre_crop_and_normalising(
    shape: tuple[int, int], size: int, resize: int, interpolation: str
) -> None:
    spec = PreprocessSpec(size=size, resize=resize, interpolation=interpolation)
    pixels = (60 + picture(*shape) * 0.5).astype(np.uint8)  # away from 0 and 255: bicubic overshoots are not clipped
    # Pillow rounds to whole levels between the two passes and after them; cubic weights sum to at most 1.3 in size.
    level = 1 / 255 / min(STD)
    np.testing.assert_allclose(to_input(pixels, spec), reference(pixels, spec), atol=(0.5 * 1.3 + 0.5) * level, rtol=0)


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    spec = PreprocessSpec(size=4, resize=4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    pixels = np.broadcast_to(np.array([255, 51, 0], dtype=np.uint8), (4, 4, 3)).copy()
    values = to_input(pixels, spec)
    assert values.dtype == np.float32
    assert values.shape == (3, 4, 4)
    assert values.flags.c_contiguous
    for channel, expected in enumerate([(1 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0 - 0.3) / 2]):
        np.testing.assert_allclose(values[channel], expected, rtol=1e-6, atol=1e-7)


def test_a_uniform_picture_stays_uniform_at_any_size() -> None:
    spec = PreprocessSpec(size=7, resize=9)
    values = to_input(np.full((31, 100, 3), 200, dtype=np.uint8), spec)
    np.testing.assert_array_equal(values, np.broadcast_to(values[:, :1, :1], values.shape))


def test_the_crop_is_the_middle() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    spec = PreprocessSpec(size=10, resize=10, mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_array_equal(to_input(pixels, spec), 1.0)


def test_bytes_and_pixels_end_in_the_same_input() -> None:
    spec = PreprocessSpec(size=32, resize=36)
    for form in ("JPEG", "PNG"):
        data = encode(picture(), form)
        np.testing.assert_array_equal(preprocess(data, spec), to_input(decode_image(data), spec))


@pytest.mark.parametrize(
    ("interpolation", "expected"),
    [
        ("bilinear", "eb01b594f644403561fcaffa8ad8c13f9a1e37d8f96fbd5e17ba2700ae86fe08"),
        ("bicubic", "069496f7405ace7c521184abb65da74c709697d6cb3c5d0d6a5e64ef6a25e8fa"),
    ],
)
def test_golden_input(interpolation: str, expected: str) -> None:
    """Bundles trained on these very numbers exist: another hash means that they would be served something else."""
    y, x, c = np.mgrid[:45, :61, :3]
    pixels = ((x * 7 + y * 13 + c * 40 + (x * y) // 5) % 256).astype(np.uint8)
    values = preprocess(encode(pixels, "PNG"), PreprocessSpec(size=32, resize=36, interpolation=interpolation))
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == expected


def test_a_spec_survives_json() -> None:
    spec = PreprocessSpec(size=224, resize=256, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert PreprocessSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_sentence_beside_a_backbone_is_read(interpolation: str) -> None:
    card = {"size": 224, "resize": f"shorter side to 256, centre crop, {interpolation}", "mean": MEAN, "std": STD}
    assert PreprocessSpec.from_json(card) == PreprocessSpec(size=224, resize=256, interpolation=interpolation)


def test_interpolation_is_bilinear_where_nothing_is_said() -> None:
    card = {"size": 8, "resize": 9, "mean": MEAN, "std": STD}
    assert PreprocessSpec.from_json(card).interpolation == "bilinear"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"size": None}, "not numbers"),
        ({"size": "wide"}, "not numbers"),
        ({"size": float("inf")}, "not numbers"),
        ({"size": 0}, "1 <= size <= resize"),
        ({"size": 300}, "1 <= size <= resize"),
        ({"resize": 5000}, "1 <= size <= resize"),
        ({"resize": "longer side to 256"}, "shorter side to N"),
        ({"interpolation": "nearest"}, "'nearest'"),
        ({"mean": [0.5, 0.5]}, "three finite numbers"),
        ({"mean": [0.5, 0.5, float("nan")]}, "three finite numbers"),
        ({"std": [1, 1, 0]}, "three finite numbers"),
        ({"std": [1, 1, float("inf")]}, "three finite numbers"),
        ({"std": 3}, "not numbers"),
        ({"std": ["a", "b", "c"]}, "not numbers"),
    ],
    ids=str,
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, object], complaint: str) -> None:
    card = {"size": 224, "resize": 256, "mean": MEAN, "std": STD, **change}
    with pytest.raises(DataError, match=complaint):
        PreprocessSpec.from_json(card)


@pytest.mark.parametrize("field", ["size", "resize", "mean", "std"])
def test_a_missing_field_is_named(field: str) -> None:
    card = {"size": 224, "resize": 256, "mean": MEAN, "std": STD}
    del card[field]
    with pytest.raises(DataError, match=f"lacks the field '{field}'"):
        PreprocessSpec.from_json(card)
