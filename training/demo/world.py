"""The demo's world: eight visual factors, the attributes that describe them, and a fixed list of classes.

A class fixes every factor; pose, place, light and clutter are left to the renderer. The table was balanced once by
simulated annealing: over the seen classes every value of one factor meets the values of every other about equally
often, so that no attribute stands in for another, and any two classes differ in several factors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "triangle", "square", "star", "cross", "heart", "ring", "crescent")
COLOURS = ("red", "yellow", "green", "turquoise", "blue", "purple")
TEXTURES = ("plain", "striped", "dotted", "checked")
COUNTS = {"one": 1, "two": 2, "three": 3}
SIZES = {"small": 0.0, "medium": 0.5, "large": 1.0}
BACKGROUNDS = ("flat", "waves", "bricks", "specks", "rays")
MARKS = ("outlined", "framed")

_POINTED = {"triangle": 0.7, "square": 0.5, "star": 1.0, "cross": 0.6, "heart": 0.3, "crescent": 0.4}
_ROUNDED = {"circle": 1.0, "ring": 1.0, "heart": 0.6, "crescent": 0.7}
_WARM = {"red": 1.0, "yellow": 0.8, "purple": 0.4, "green": 0.2, "turquoise": 0.1, "blue": 0.0}

ATTRIBUTES = (
    *(f"shape_{shape}" for shape in SHAPES),
    "pointed",
    "rounded",
    *(f"colour_{colour}" for colour in COLOURS),
    "warm",
    *(f"texture_{texture}" for texture in TEXTURES),
    *(f"count_{count}" for count in COUNTS),
    "size",
    *(f"background_{background}" for background in BACKGROUNDS),
    *MARKS,
)
"""The vocabulary: one name per attribute, each on a 0..1 scale."""


@dataclass(frozen=True, kw_only=True)
class VisualClass:
    """One class of drawings: a value for each factor.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        texture: one of `TEXTURES`.
        count: a key of `COUNTS`: how many equal shapes the drawing has.
        size: a key of `SIZES`, relative to what fits for that count.
        background: one of `BACKGROUNDS`.
        outlined: whether each shape has a dark or white edge.
        framed: whether the drawing has a border.
    """

    shape: str
    colour: str
    texture: str
    count: str
    size: str
    background: str
    outlined: bool = False
    framed: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "shape": SHAPES,
            "colour": COLOURS,
            "texture": TEXTURES,
            "count": tuple(COUNTS),
            "size": tuple(SIZES),
            "background": BACKGROUNDS,
        }
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise ValueError(f"{field} must be one of {', '.join(values)}, got {getattr(self, field)!r}")

    @property
    def id(self) -> str:
        """The slug, for example ``red-striped-star``."""
        return self.name.replace(" ", "-")

    @property
    def name(self) -> str:
        """Colour, texture and shape, for example ``red striped star``; no two classes share them."""
        return f"{self.colour} {self.texture} {self.shape}"

    @property
    def description(self) -> str:
        """Every factor in words, for example ``two large red striped stars, outlined, on waves, framed``."""
        plural = {"one": "", "two": "es" if self.shape == "cross" else "s"}
        words = [f"{self.count} {self.size} {self.name}{plural.get(self.count, plural['two'])}"]
        words += ["outlined"] * self.outlined
        words += [f"on a {self.background} background" if self.background == "flat" else f"on {self.background}"]
        words += ["framed"] * self.framed
        return ", ".join(words)

    def attributes(self) -> NDArray[np.float64]:
        """The class's attribute vector, float64 [A] in the order of `ATTRIBUTES`, values in 0..1."""
        values = {
            f"shape_{self.shape}": 1.0,
            "pointed": _POINTED.get(self.shape, 0.0),
            "rounded": _ROUNDED.get(self.shape, 0.0),
            f"colour_{self.colour}": 1.0,
            "warm": _WARM[self.colour],
            f"texture_{self.texture}": 1.0,
            f"count_{self.count}": 1.0,
            "size": SIZES[self.size],
            f"background_{self.background}": 1.0,
            "outlined": float(self.outlined),
            "framed": float(self.framed),
        }
        return np.array([values.get(name, 0.0) for name in ATTRIBUTES])


def parse_class(text: str) -> VisualClass:
    """Read one line of the tables below: ``two large red striped star, waves outlined framed``."""
    looks, _, surroundings = text.partition(",")
    count, size, colour, texture, shape = looks.split()
    background, *marks = surroundings.split()
    if unknown := set(marks) - set(MARKS):
        raise ValueError(f"{text!r}: {sorted(unknown)} must be among {', '.join(MARKS)}")
    return VisualClass(
        shape=shape,
        colour=colour,
        texture=texture,
        count=count,
        size=size,
        background=background,
        outlined="outlined" in marks,
        framed="framed" in marks,
    )


def attribute_matrix(classes: Iterable[VisualClass]) -> NDArray[np.float64]:
    """The attribute vectors of `classes`, float64 [C, A]."""
    return np.stack([each.attributes() for each in classes])


_SEEN = (
    "one small red plain circle, rays outlined",
    "one large red dotted circle, waves framed",
    "two large yellow checked circle, waves outlined framed",
    "one small turquoise striped circle, flat framed",
    "two large blue striped circle, rays",
    "three medium purple striped circle, flat outlined",
    "two medium red dotted triangle, rays",
    "one medium green striped triangle, rays outlined framed",
    "three large turquoise striped triangle, waves",
    "three medium blue dotted triangle, bricks outlined framed",
    "two small purple plain triangle, specks",
    "one small purple dotted triangle, waves outlined framed",
    "two small red checked square, flat framed",
    "three medium yellow plain square, waves outlined",
    "one medium turquoise dotted square, bricks outlined framed",
    "three large blue dotted square, specks",
    "one small blue checked square, specks outlined framed",
    "three medium purple plain square, rays framed",
    "two medium red checked star, specks outlined framed",
    "three large yellow checked star, rays outlined",
    "three large green plain star, specks outlined",
    "two small green dotted star, bricks",
    "three small turquoise plain star, bricks framed",
    "one small purple checked star, waves",
    "three large red plain cross, bricks outlined framed",
    "two large yellow dotted cross, flat outlined framed",
    "three medium green checked cross, rays framed",
    "two medium turquoise checked cross, flat outlined",
    "three small blue striped cross, waves outlined framed",
    "one large purple striped cross, bricks",
    "two medium yellow striped heart, bricks",
    "three small yellow dotted heart, rays framed",
    "one large green checked heart, flat outlined",
    "one medium blue plain heart, waves framed",
    "two small blue checked heart, bricks outlined",
    "two large purple striped heart, specks outlined framed",
    "one medium red striped ring, specks outlined",
    "two small yellow striped ring, rays outlined framed",
    "one small green plain ring, flat framed",
    "two large green checked ring, bricks framed",
    "one large turquoise dotted ring, rays",
    "three medium blue checked ring, flat",
    "two medium red plain crescent, waves framed",
    "one medium yellow dotted crescent, specks",
    "two small green striped crescent, waves outlined",
    "three small turquoise dotted crescent, flat outlined",
    "three large turquoise checked crescent, specks framed",
    "one large purple plain crescent, bricks outlined",
)
_UNSEEN = (
    "two medium green plain circle, bricks outlined framed",
    "three small purple checked circle, bricks framed",
    "one medium yellow checked triangle, flat framed",
    "two large turquoise plain triangle, rays outlined framed",
    "one large yellow striped square, flat outlined",
    "two large purple checked square, rays outlined",
    "one large yellow striped star, specks framed",
    "one large blue dotted star, rays outlined framed",
    "two small turquoise dotted cross, waves framed",
    "three small red checked heart, waves outlined framed",
    "one small turquoise plain heart, specks outlined",
    "two small blue plain ring, waves outlined",
    "three medium purple dotted ring, specks framed",
    "three large red striped crescent, rays outlined framed",
)
_EXTRA = (
    "two large turquoise dotted circle, specks outlined",
    "three small green striped square, bricks framed",
    "two large blue plain star, flat",
    "one medium green dotted cross, waves outlined",
    "three small red striped heart, flat",
    "one medium red checked crescent, bricks",
)

SEEN = tuple(parse_class(line) for line in _SEEN)
"""The training classes."""
UNSEEN = tuple(parse_class(line) for line in _UNSEEN)
"""Classes that the bundle knows by their attributes only."""
EXTRA = tuple(parse_class(line) for line in _EXTRA)
"""Classes that the bundle does not know; examples to register."""


def find_class(class_id: str) -> VisualClass:
    """The class with this slug.

    Raises:
        KeyError: none has it.
    """
    return {each.id: each for each in (*SEEN, *UNSEEN, *EXTRA)}[class_id]
