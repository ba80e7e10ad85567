"""The demo's world: the visual factors of a drawing, the attributes that name them, and a fixed list of classes.

Shape, colour and texture are the same in every drawing of a class. Count, size, background, outline and frame vary from
drawing to drawing around the class's habit, and the class's attributes say how often each occurs, as percentages in
tables of animals do. A network cannot then tell a class by its background and so leave its texture unlearnt. For the
same reason the seen classes are dense: most share shape and colour with another and differ in texture, and so on.
The table was balanced once by simulated annealing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "triangle", "square", "star", "cross", "heart")
COLOURS = ("red", "yellow", "green", "blue", "purple")
TEXTURES = ("plain", "striped", "dotted", "checked")
COUNTS = ("one", "two", "three")
SIZES = {"small": 0.25, "medium": 0.5, "large": 0.75}
BACKGROUNDS = ("flat", "waves", "bricks", "specks", "rays")
MARKS = ("outlined", "framed")

# How often a drawing follows its class's habit.
_HABIT_OF_COUNT = 0.7
_HABIT_OF_BACKGROUND = 0.6
_HABIT_OF_MARK = 0.85
_SPREAD_OF_SIZE = 0.25

_POINTED = {"triangle": 0.7, "square": 0.5, "star": 1.0, "cross": 0.6, "heart": 0.3}
_ROUNDED = {"circle": 1.0, "heart": 0.6}
_WARM = {"red": 1.0, "yellow": 0.8, "purple": 0.4, "green": 0.2}

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

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one drawing shows.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        texture: one of `TEXTURES`.
        count: how many equal shapes, one of `COUNTS`.
        size: 0..1, relative to what fits for that count.
        background: one of `BACKGROUNDS`.
        outlined: whether each shape has a dark or white edge.
        framed: whether the drawing has a border.
    """

    shape: str
    colour: str
    texture: str
    count: str
    size: float
    background: str
    outlined: bool
    framed: bool

    def attributes(self) -> Vector:
        """What is to be seen, float64 [A] in the order of `ATTRIBUTES`, values in 0..1."""
        habits = {
            f"count_{self.count}": 1.0,
            "size": self.size,
            f"background_{self.background}": 1.0,
            "outlined": float(self.outlined),
            "framed": float(self.framed),
        }
        return _vector(self.shape, self.colour, self.texture, habits)


@dataclass(frozen=True, kw_only=True)
class VisualClass:
    """One class of drawings: shape, colour and texture, and a habit for each of the other factors.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        texture: one of `TEXTURES`.
        count: the usual count, one of `COUNTS`.
        size: the usual size, a key of `SIZES`.
        background: the usual background, one of `BACKGROUNDS`.
        outlined: whether most drawings have outlines.
        framed: whether most drawings have a border.
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
            "count": COUNTS,
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
        """All of it in words, for example ``Red striped star; mostly two, large, on waves, outlined, no frame.``."""
        background = "a flat background" if self.background == "flat" else self.background
        marks = ("outlined" if self.outlined else "no outline", "framed" if self.framed else "no frame")
        habits = ", ".join((self.count, self.size, f"on {background}", *marks))
        return f"{self.name.capitalize()}; mostly {habits}."

    def attributes(self) -> Vector:
        """The class's attributes: the mean over its drawings of what they show, float64 [A], values in 0..1."""
        habits = {
            **{f"count_{each}": _share(each == self.count, _HABIT_OF_COUNT, len(COUNTS)) for each in COUNTS},
            "size": SIZES[self.size],
            **{
                f"background_{each}": _share(each == self.background, _HABIT_OF_BACKGROUND, len(BACKGROUNDS))
                for each in BACKGROUNDS
            },
            "outlined": _share(self.outlined, _HABIT_OF_MARK, 2),
            "framed": _share(self.framed, _HABIT_OF_MARK, 2),
        }
        return _vector(self.shape, self.colour, self.texture, habits)

    def scene(self, rng: np.random.Generator) -> Scene:
        """What one drawing of this class happens to show."""
        return Scene(
            shape=self.shape,
            colour=self.colour,
            texture=self.texture,
            count=_choose(rng, COUNTS, self.count, _HABIT_OF_COUNT),
            size=SIZES[self.size] + rng.uniform(-_SPREAD_OF_SIZE, _SPREAD_OF_SIZE),
            background=_choose(rng, BACKGROUNDS, self.background, _HABIT_OF_BACKGROUND),
            outlined=self.outlined == (rng.random() < _HABIT_OF_MARK),
            framed=self.framed == (rng.random() < _HABIT_OF_MARK),
        )


def _share(usual: bool, habit: float, values: int) -> float:
    return habit if usual else round((1 - habit) / (values - 1), 6)


def _choose(rng: np.random.Generator, values: tuple[str, ...], usual: str, habit: float) -> str:
    shares = [_share(value == usual, habit, len(values)) for value in values]
    return values[int(rng.choice(len(values), p=shares))]


def _vector(shape: str, colour: str, texture: str, habits: dict[str, float]) -> Vector:
    values = {
        f"shape_{shape}": 1.0,
        "pointed": _POINTED.get(shape, 0.0),
        "rounded": _ROUNDED.get(shape, 0.0),
        f"colour_{colour}": 1.0,
        "warm": _WARM.get(colour, 0.0),
        f"texture_{texture}": 1.0,
        **habits,
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


def attribute_matrix(classes: Iterable[VisualClass]) -> Vector:
    """The attribute vectors of `classes`, float64 [C, A]."""
    return np.stack([each.attributes() for each in classes])


_SEEN = (
    "two large red striped circle, rays outlined",
    "three large red dotted circle, flat framed",
    "one medium yellow dotted circle, bricks outlined framed",
    "two small yellow checked circle, waves framed",
    "three large green striped circle, flat framed",
    "three medium green checked circle, bricks outlined",
    "one small blue plain circle, flat outlined",
    "one medium purple plain circle, specks framed",
    "one medium red plain triangle, flat",
    "two large yellow plain triangle, waves outlined",
    "three small yellow striped triangle, bricks",
    "one medium green checked triangle, specks framed",
    "one large blue striped triangle, waves framed",
    "three medium blue dotted triangle, flat outlined",
    "three large purple dotted triangle, specks outlined framed",
    "two large purple checked triangle, rays",
    "three small red striped square, specks outlined",
    "two medium red dotted square, bricks",
    "two small yellow plain square, specks outlined framed",
    "three medium yellow checked square, rays outlined",
    "one large green plain square, bricks",
    "three large blue dotted square, rays framed",
    "one small blue checked square, waves outlined framed",
    "two medium purple striped square, flat outlined framed",
    "three medium red checked star, waves framed",
    "three large yellow plain star, flat framed",
    "one large green striped star, specks outlined",
    "one small green dotted star, rays framed",
    "two medium blue plain star, bricks",
    "three small blue striped star, rays outlined framed",
    "one medium purple dotted star, waves outlined",
    "two small purple checked star, flat outlined",
    "two large red plain cross, bricks outlined framed",
    "one small red dotted cross, rays outlined",
    "one large yellow checked cross, flat",
    "two medium green striped cross, waves",
    "two small green checked cross, flat outlined framed",
    "three medium blue plain cross, waves outlined framed",
    "two small blue dotted cross, specks framed",
    "one small purple striped cross, bricks",
    "two medium red striped heart, rays framed",
    "one medium yellow striped heart, specks outlined framed",
    "three small yellow dotted heart, specks",
    "one small green plain heart, rays outlined framed",
    "two large green dotted heart, waves outlined",
    "two large blue checked heart, specks",
    "three small purple plain heart, waves",
    "three large purple checked heart, bricks outlined framed",
    "two small red plain circle, bricks outlined framed",
    "two medium yellow plain circle, waves outlined framed",
    "three medium yellow striped circle, waves outlined framed",
    "one large green plain circle, waves framed",
    "two large blue striped circle, specks outlined framed",
    "one small blue checked circle, bricks framed",
    "two medium purple striped circle, flat",
    "one medium purple dotted circle, specks framed",
    "one large purple checked circle, specks",
    "one small red dotted triangle, flat framed",
    "two medium yellow dotted triangle, specks outlined",
    "two medium green plain triangle, flat outlined",
    "two large green striped triangle, specks",
    "two small green dotted triangle, rays framed",
    "one large blue plain triangle, rays framed",
    "one small blue checked triangle, waves",
    "two medium purple plain triangle, bricks outlined",
    "one medium purple striped triangle, bricks outlined framed",
    "two small red plain square, flat outlined",
    "three large red checked square, bricks framed",
    "one large yellow striped square, specks outlined",
    "one small yellow dotted square, bricks framed",
    "three medium green dotted square, flat framed",
    "three large blue plain square, specks outlined",
    "one small purple plain square, waves outlined",
    "one small purple dotted square, rays outlined",
    "three small purple checked square, flat outlined framed",
    "one large red plain star, flat",
    "two medium red striped star, waves outlined",
    "two large red dotted star, waves outlined",
    "three small yellow dotted star, rays framed",
    "three large yellow checked star, flat framed",
    "one small green checked star, rays",
    "three large blue checked star, rays framed",
    "three medium purple plain star, rays",
    "three small red striped cross, specks framed",
    "two small red checked cross, bricks outlined",
    "one large yellow striped cross, bricks outlined framed",
    "one small yellow dotted cross, waves outlined framed",
    "one large green plain cross, specks outlined",
    "three medium blue striped cross, waves framed",
    "three small blue checked cross, rays outlined",
    "three large purple plain cross, flat outlined",
    "two medium purple dotted cross, waves outlined framed",
    "three medium red plain heart, waves",
    "two large red checked heart, specks",
    "three small yellow checked heart, bricks outlined",
    "two medium green striped heart, flat outlined framed",
    "two medium green checked heart, rays framed",
    "one medium blue striped heart, flat outlined",
    "three small blue dotted heart, rays framed",
    "three large purple dotted heart, bricks",
)
_UNSEEN = (
    "two medium red checked circle, specks",
    "one large green dotted circle, waves outlined",
    "two large red striped triangle, flat outlined framed",
    "three medium yellow checked triangle, rays outlined framed",
    "three large green checked square, flat framed",
    "two small blue striped square, bricks",
    "one medium yellow striped star, waves framed",
    "three small green plain star, specks outlined",
    "two large blue dotted star, rays outlined",
    "one small yellow plain cross, rays",
    "one small purple checked cross, specks outlined framed",
    "three small red dotted heart, waves framed",
    "one large blue plain heart, bricks framed",
    "three medium purple striped heart, flat outlined",
)
_EXTRA = (
    "two medium blue dotted circle, bricks",
    "one small red checked triangle, bricks outlined",
    "one medium green striped square, rays outlined framed",
    "two large purple striped star, waves framed",
    "three small green dotted cross, flat framed",
    "two medium yellow plain heart, bricks outlined",
)

SEEN = tuple(parse_class(line) for line in _SEEN)
"""The training classes."""
UNSEEN = tuple(parse_class(line) for line in _UNSEEN)
"""Classes that the bundle knows by their attributes only."""
EXTRA = tuple(parse_class(line) for line in _EXTRA)
"""Classes that the bundle does not know; examples to register."""
