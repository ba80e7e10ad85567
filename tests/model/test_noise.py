"""Noise keyed by bundle and class."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from model.noise import class_noise

MASK = 2**64 - 1


def philox_words(key: tuple[int, int], count: int) -> list[int]:
    """Philox 4x64-10 with Python's integers, after the paper (Salmon et al., SC 2011)."""
    words: list[int] = []
    counter = 0
    while len(words) < count:
        counter += 1  # NumPy counts before it draws
        c = [(counter >> (64 * i)) & MASK for i in range(4)]
        k0, k1 = key
        for _ in range(10):
            p0, p1 = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
            c = [(p1 >> 64) ^ c[1] ^ k0, p1 & MASK, (p0 >> 64) ^ c[3] ^ k1, p0 & MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        words += c
    return words[:count]


def reference(bundle_id: str, class_id: str, samples: int, dimension: int) -> list[list[float]]:
    """The same noise, one number at a time."""
    digest = hashlib.sha256(f"{bundle_id}\0{class_id}".encode()).digest()
    key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    count = samples * dimension + samples * dimension % 2
    uniform = [((word >> 11) + 0.5) / 2**53 for word in philox_words(key, count)]
    normal: list[float] = []
    for u, v in zip(uniform[::2], uniform[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(u))
        normal += [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
    return [normal[i * dimension : (i + 1) * dimension] for i in range(samples)]


@pytest.mark.parametrize(("samples", "dimension"), [(1, 1), (3, 5), (7, 4), (2, 85)])
def test_it_is_philox_and_box_muller(samples: int, dimension: int) -> None:
    noise = class_noise("bundle", "zebra", samples, dimension)
    assert noise.dtype == np.float32
    assert noise.shape == (samples, dimension)
    np.testing.assert_allclose(noise, reference("bundle", "zebra", samples, dimension), rtol=1e-6, atol=1e-7)


def test_golden_values() -> None:
    """Rows of registered classes rest on these numbers: they never change."""
    expected = [
        [1.680985212, 0.600475371, 0.072883725, -0.769922674],
        [-0.084770508, 0.301848382, 0.807570159, 0.19700478],
    ]
    noise = class_noise("0123456789abcdef0123456789abcdef", "zebra", 2, 4)
    np.testing.assert_allclose(noise, expected, rtol=2e-6)


@pytest.mark.parametrize("dimension", [1, 3, 4, 85])
def test_more_samples_keep_the_first_rows(dimension: int) -> None:
    many = class_noise("b", "c", 200, dimension)
    for samples in (1, 2, 5, 199):
        np.testing.assert_array_equal(class_noise("b", "c", samples, dimension), many[:samples])


def test_it_is_standard_normal() -> None:
    noise = class_noise("b", "c", 200, 500).astype(np.float64)
    n = noise.size
    assert abs(noise.mean()) < 5 / math.sqrt(n)
    assert abs(noise.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((noise**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((noise**4).mean() - 3) < 5 * math.sqrt(96 / n)
    inside = (np.abs(noise) < 1).mean()
    assert abs(inside - math.erf(1 / math.sqrt(2))) < 5 * math.sqrt(0.25 / n)


def test_every_bundle_and_class_has_noise_of_its_own() -> None:
    keys = [("a", "b"), ("a", "c"), ("b", "a"), ("ab", ""), ("", "ab"), ("a", "bb"), ("aa", "b")]
    noises = [class_noise(*key, 100, 50).astype(np.float64).ravel() for key in keys]
    correlation = np.corrcoef(noises)
    assert np.abs(correlation - np.eye(len(keys))).max() < 5 / math.sqrt(noises[0].size)


def test_the_same_key_gives_the_same_noise() -> None:
    np.testing.assert_array_equal(class_noise("a", "b", 9, 9), class_noise("a", "b", 9, 9))


@pytest.mark.parametrize("samples", [1, 2, 7, 10])
def test_rows_with_more_dimensions_than_a_block_has_pairs_are_those_drawn_with_either_sign(samples: int) -> None:
    """The first of each pair is that of the plain noise; the first rows do not depend on how many there are."""
    noise = class_noise("bundle", "zebra", samples, 101, form="matched")
    assert noise.shape == (samples, 101)
    assert noise.dtype == np.float32
    plain = class_noise("bundle", "zebra", 5, 101)
    expected = [row * sign for row in plain for sign in (1, -1)]
    np.testing.assert_array_equal(noise, expected[:samples])
    if samples % 2 == 0:
        assert not noise.sum(axis=0).any()


@pytest.mark.parametrize("samples", [1, 7, 200, 230])
@pytest.mark.parametrize("dimension", [1, 3, 85, 100])
def test_matched_rows_are_antithetic_and_have_the_moments_of_the_distribution(samples: int, dimension: int) -> None:
    """Means 0 and mean products those of independent numbers, over each block; the first rows do not depend on N."""
    noise = class_noise("bundle", "zebra", 400, dimension, form="matched")
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(class_noise("bundle", "zebra", samples, dimension, form="matched"), noise[:samples])
    np.testing.assert_array_equal(noise[1::2], -noise[::2])
    for block in (noise[:200], noise[200:]):
        second = block.astype(np.float64).T @ block / 200
        np.testing.assert_allclose(second, np.eye(dimension), atol=1e-6)
    assert not np.array_equal(noise[:200], noise[200:])


def test_matched_rows_are_those_drawn_turned_and_scaled() -> None:
    """What each block spans is what was drawn: only the coordinates change."""
    drawn = class_noise("bundle", "zebra", 100, 5).astype(np.float64)
    matched = class_noise("bundle", "zebra", 200, 5, form="matched")[::2].astype(np.float64)
    map_KK, *_ = np.linalg.lstsq(drawn, matched, rcond=None)
    np.testing.assert_allclose(drawn @ map_KK, matched, atol=1e-5)
    np.testing.assert_allclose(map_KK, np.eye(5), atol=0.3)
