"""Draw the classes of `world`: the same seed gives the same bytes, another seed another pose, place, light and clutter.

S: side of the drawing in pixels; K = 2 S: side of the canvas, which is halved at the end for smooth edges.
"""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from model.preprocess import Pixels
from training.demo.world import COUNTS, Scene, VisualClass

Canvas = NDArray[np.floating]  # float32; NumPy's stubs widen what a Python float touches

IMAGE_SIDE = 128
"""Side S of the demo's images, in pixels."""

_HUES = {"red": 0, "yellow": 50, "green": 125, "blue": 220, "purple": 285}  # degrees
_HUE_JITTER = 9.0
# Radius of one shape as a fraction of the side, smallest to largest, by how many there are.
_RADII = {1: (0.24, 0.40), 2: (0.18, 0.26), 3: (0.155, 0.215)}
_MARGIN = 0.07  # kept free by the shapes' centres' surroundings, and where the frame goes


def render(kind: VisualClass, *, seed: int | Sequence[int], size: int = IMAGE_SIDE) -> Pixels:
    """Draw one picture of a class.

    Args:
        kind: what to draw.
        seed: one or several integers, 0 or above; drawings of different classes differ even under one seed.
        size: side S, at least 16.

    Returns:
        uint8 [S, S, 3], RGB.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size}")
    rng = _generator(kind, seed)
    return _draw(kind.scene(rng), size, rng)


def scene_of(kind: VisualClass, *, seed: int | Sequence[int]) -> Scene:
    """What :func:`render` draws for this class and seed."""
    return kind.scene(_generator(kind, seed))


def _generator(kind: VisualClass, seed: int | Sequence[int]) -> np.random.Generator:
    words = [seed] if isinstance(seed, int) else list(seed)
    return np.random.default_rng([zlib.crc32(kind.id.encode()), *words])


def _draw(scene: Scene, size: int, rng: np.random.Generator) -> Pixels:
    side = 2 * size
    canvas = _background(scene.background, side, rng)
    for _ in range(rng.integers(4, 10)):
        _draw_bit(canvas, rng)
    tones = _tones(scene.colour, rng)
    edge = _edge_tone(rng) if scene.outlined else None
    count = COUNTS.index(scene.count) + 1
    small, large = _RADII[count]
    radius = (small + (large - small) * scene.size) * side
    for centre in _places(count, radius, side, rng):
        _draw_shape(canvas, scene, centre, radius, tones, edge, rng)
    if scene.framed:
        _draw_frame(canvas, rng)
    _light(canvas, rng)
    image = Image.fromarray(np.rint(canvas * 255).astype(np.uint8)).reduce(2)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9) * size / IMAGE_SIDE))
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * rng.uniform(1, 11)
    return np.clip(np.rint(np.asarray(image, dtype=np.float32) + noise), 0, 255).astype(np.uint8)


def _rgb(hue: float, saturation: float, value: float) -> Canvas:
    return np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value), dtype=np.float32)


def _grid(side: int) -> tuple[Canvas, Canvas]:
    """Coordinates x [1, K] and y [K, 1], -1..1 across the canvas."""
    line = np.linspace(-1, 1, side, dtype=np.float32)
    return line[None, :], line[:, None]


def _background(pattern: str, side: int, rng: np.random.Generator) -> Canvas:
    """A pattern in two muted tones of any hue, so that the colour of a background says nothing about the class."""
    value = rng.uniform(0.3, 0.9)
    step = rng.uniform(0.16, 0.3) * (1 if value < 0.6 else -1)
    hue = rng.uniform(0, 360)
    near = _rgb(hue, rng.uniform(0, 0.4), value)
    far = _rgb(hue + rng.uniform(-40, 40), rng.uniform(0, 0.4), value + step)
    x, y = _grid(side)
    turn = rng.uniform(0, 2 * np.pi)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    phase = rng.uniform(0, 2 * np.pi)
    weight: Canvas
    match pattern:
        case "flat":  # nothing but a faint gradient
            weight = 0.3 * along + 0.3
        case "waves":
            swell = rng.uniform(0.08, 0.16) * np.sin(along * rng.uniform(5, 8) + phase)
            weight = 0.5 + 0.7 * np.sin((across + swell) * rng.uniform(15, 22))
        case "bricks":
            rows, tilt = rng.uniform(4, 6.5), rng.uniform(-0.15, 0.15)
            v = (y - tilt * x) * rows + phase
            u = (x + tilt * y) * rows / 1.8 + phase + 0.5 * (np.floor(v) % 2)
            weight = ((u % 1 < 0.12) | (v % 1 < 0.2)).astype(np.float32)
        case "specks":
            weight = _specks(side, rng)
        case "rays":
            px, py = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)
            weight = 0.5 + 1.5 * np.sin(np.arctan2(y - py, x - px) * int(rng.integers(8, 13)) + phase)
        case _:
            raise ValueError(f"no such background: {pattern!r}")
    weight = np.clip(weight, 0, 1)[:, :, None]
    return near * (1 - weight) + far * weight


def _specks(side: int, rng: np.random.Generator) -> Canvas:
    layer = Image.new("L", (side, side))
    draw = ImageDraw.Draw(layer)
    for x, y, r in rng.uniform((0, 0, 0.010), (1, 1, 0.022), (rng.integers(90, 150), 3)) * side:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return np.asarray(layer, dtype=np.float32) / 255


def _draw_bit(canvas: Canvas, rng: np.random.Generator) -> None:
    """Clutter: one short stroke or blob in any colour, too small to be taken for a shape."""
    side = len(canvas)
    layer = Image.new("L", (side, side))
    draw = ImageDraw.Draw(layer)
    x, y = rng.uniform(0, side, 2)
    if rng.random() < 0.6:
        turn, length = rng.uniform(0, np.pi), rng.uniform(0.04, 0.16) * side
        end = (x + length * math.cos(turn), y + length * math.sin(turn))
        draw.line([(x, y), end], fill=255, width=int(rng.uniform(0.008, 0.02) * side) + 1)
    else:
        a, b = rng.uniform(0.012, 0.035, 2) * side
        draw.ellipse((x - a, y - b, x + a, y + b), fill=255)
    colour = _rgb(rng.uniform(0, 360), rng.uniform(0, 0.9), rng.uniform(0.2, 1))
    _paint(canvas, layer, colour, opacity=rng.uniform(0.35, 0.9))


def _paint(canvas: Canvas, layer: Image.Image, colour: Canvas, *, opacity: float = 1.0) -> None:
    """Lay a colour over the canvas where `layer` is white: one [3], or one per pixel of the layer's bounding box."""
    box = layer.getbbox()
    if box is None:
        return
    left, top, right, bottom = box
    weight = np.asarray(layer.crop(box), dtype=np.float32)[:, :, None] * (opacity / 255)
    patch = canvas[top:bottom, left:right]
    patch += weight * (colour - patch)


def _tones(colour: str, rng: np.random.Generator) -> tuple[Canvas, Canvas]:
    """The class's colour and the lighter or darker tone of its texture."""
    hue = _HUES[colour] + rng.uniform(-_HUE_JITTER, _HUE_JITTER)
    saturation, value = rng.uniform(0.7, 1), rng.uniform(0.65, 1)
    other = (
        _rgb(hue, 0.15 * saturation, rng.uniform(0.9, 1))
        if rng.random() < 0.5
        else _rgb(hue, saturation, value * rng.uniform(0.15, 0.35))
    )
    return _rgb(hue, saturation, value), other


def _edge_tone(rng: np.random.Generator) -> Canvas:
    return _rgb(0, 0, rng.uniform(0, 0.12) if rng.random() < 0.5 else rng.uniform(0.92, 1))


def _places(count: int, radius: float, side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Centres [count, 2] inside the margin, apart where chance allows; the most spread of many draws otherwise."""
    low = min(radius * 0.95 + _MARGIN * side, side / 2)
    draws = rng.uniform(low, side - low, (64, count, 2))
    gaps = np.linalg.norm(draws[:, :, None] - draws[:, None], axis=3)
    nearest = np.where(np.eye(count, dtype=bool), np.inf, gaps).min(axis=(1, 2))
    apart = np.flatnonzero(nearest > 2.05 * radius)
    chosen: NDArray[np.float64] = draws[apart[0] if len(apart) else nearest.argmax()]
    return chosen


def _draw_shape(
    canvas: Canvas,
    scene: Scene,
    centre: NDArray[np.float64],
    radius: float,
    tones: tuple[Canvas, Canvas],
    edge: Canvas | None,
    rng: np.random.Generator,
) -> None:
    side = len(canvas)
    turn = rng.uniform(-0.5, 0.5)
    norm_correction = rng.uniform(0.87, 1.13)
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    frame = spin @ np.diag([norm_correction, 1 / norm_correction]) * radius
    layer = Image.new("L", (side, side))
    draw = ImageDraw.Draw(layer)
    points = list(map(tuple, _outline(scene.shape) @ frame.T + centre))
    draw.polygon(points, fill=255)
    left, top, right, bottom = layer.getbbox() or (0, 0, 1, 1)
    x, y = np.arange(left, right) - centre[0], np.arange(top, bottom) - centre[1]
    inverse = np.linalg.inv(frame)
    u, v = (np.add.outer(row[1] * y, row[0] * x).astype(np.float32) for row in inverse)
    weight = _texture(scene.texture, u, v, rng)[:, :, None]
    _paint(canvas, layer, tones[0] * (1 - weight) + tones[1] * weight)
    if edge is not None:
        rim = Image.new("L", (side, side))
        draw = ImageDraw.Draw(rim)
        draw.line([*points, points[0], points[1]], fill=255, width=round(0.03 * side), joint="curve")
        _paint(canvas, rim, edge)


def _outline(shape: str) -> NDArray[np.float64]:
    """The outline of a shape of radius about 1, y down, as a polygon [P, 2]."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    match shape:
        case "circle":
            return circle * 0.95
        case "triangle":
            corner = np.radians([-90, 30, 150])
            return np.stack([np.cos(corner), np.sin(corner) + 0.15], axis=1) * 1.12
        case "square":
            return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.84
        case "star":
            corner = np.radians(np.arange(10) * 36 - 90)
            reach = np.where(np.arange(10) % 2, 0.48, 1.12)
            return np.stack([np.cos(corner), np.sin(corner)], axis=1) * reach[:, None]
        case "cross":
            a, b = 0.36, 1.0
            quarter = np.array([[-a, -b], [a, -b], [a, -a]])
            turns = [np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
            return np.concatenate([quarter @ turn for turn in turns])
        case "heart":
            x = np.sin(turn) ** 3
            y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 15.5
            return np.stack([x, y + 0.1], axis=1) * 1.08
        case _:
            raise ValueError(f"no such shape: {shape!r}")


def _texture(texture: str, u: Canvas, v: Canvas, rng: np.random.Generator) -> Canvas:
    """Where the second tone shows, 0..1 [K, K], in a shape's own coordinates (-1..1 inside it)."""
    shift_u, shift_v = rng.uniform(0, 1), rng.uniform(0, 1)
    match texture:
        case "plain":
            covered = np.zeros(u.shape, dtype=bool)
        case "striped":
            turn = rng.uniform(0, np.pi)
            across = u * math.cos(turn) + v * math.sin(turn)
            covered = np.sin(across * rng.uniform(7.5, 9.5) + 6.3 * shift_u) > 0.1
        case "dotted":
            pitch = rng.uniform(0.56, 0.66)
            b = v / pitch + shift_v
            a = u / pitch + shift_u + 0.5 * (np.floor(b) % 2)
            covered = (a % 1 - 0.5) ** 2 + (b % 1 - 0.5) ** 2 < 0.31**2
        case "checked":
            pitch = rng.uniform(0.5, 0.62)
            covered = (np.floor(u / pitch + shift_u) + np.floor(v / pitch + shift_v)) % 2 > 0
        case _:
            raise ValueError(f"no such texture: {texture!r}")
    return covered.astype(np.float32)


def _draw_frame(canvas: Canvas, rng: np.random.Generator) -> None:
    width = round(rng.uniform(0.045, 0.065) * len(canvas))
    colour = _rgb(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.05, 1))
    inner = canvas[width:-width, width:-width].copy()
    canvas[:] = colour
    canvas[width:-width, width:-width] = inner


def _light(canvas: Canvas, rng: np.random.Generator) -> None:
    """A lamp from one side, exposure and white balance; in place, values stay in 0..1."""
    x, y = _grid(len(canvas))
    turn = rng.uniform(0, 2 * np.pi)
    lamp = 1 + rng.uniform(0, 0.22) * (x * math.cos(turn) + y * math.sin(turn))
    balance = (rng.uniform(0.72, 1.12) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    canvas *= lamp[:, :, None] * balance
    np.clip(canvas, 0, 1, out=canvas)
