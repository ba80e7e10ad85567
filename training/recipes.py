"""Recipes: settings with the source they come from, as TOML files.

A recipe may extend others: their settings are taken in order, then its own.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from model.errors import DataError, Problem
from training.config import TrainConfig


def configured(settings: Iterable[str], *, base: Mapping[str, Any] | None = None) -> TrainConfig:
    """The default configuration with overrides; values are JSON (`0.5`, `true`, `[0.1, 0.5]`) or bare words.

    Args:
        settings: later ones win.
        base: settings that the overrides are put over, nested as in :meth:`TrainConfig.to_json`.

    Raises:
        DataError: an override without `=`, an unknown name or a value that does not fit; names every one.
    """
    fields: dict[str, Any] = {}
    problems = []
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            problems.append(Problem(pointer=f"--set {setting}", detail="expected NAME=VALUE"))
            continue
        *sections, last = name.split(".")
        place: Any = fields
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            problems.append(Problem(pointer=f"--set {setting}", detail=f"{name} is inside another setting given"))
            continue
        place[last] = _value(value)
    if problems:
        raise DataError("the settings are not valid", problems)
    return TrainConfig.from_json(merged(base or {}, fields))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


FOLDER = Path(__file__).parent / "recipes"
SUFFIX = ".toml"
_TEXTS = ("summary", "source")
_EXTENDS = "extends"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings for a run.

    Attributes:
        name: of a recipe of this package, or of the file it was read from.
        summary: one line.
        sources: where the settings of each recipe come from that went into it, by name; later ones take precedence.
        settings: nested as in :meth:`TrainConfig.to_json`; what is left out takes its default.
    """

    name: str
    summary: str
    sources: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def config(self) -> TrainConfig:
        """The resolved settings."""
        return TrainConfig.from_json(self.settings)

    def resolved_text(self) -> str:
        """A recipe in TOML with the same settings, all of them, which extends no other."""
        source = "\n".join(f"{name}: {text}" for name, text in self.sources.items())
        fields = {"summary": self.summary, "source": source, **self.config.to_json()}
        return tomli_w.dumps(fields, multiline_strings=True)

    def to_json(self) -> dict[str, Any]:
        """What a run notes of its recipe."""
        return {"name": self.name, "summary": self.summary, "source": dict(self.sources)}


def known_recipes() -> list[str]:
    """Names of the recipes of this package."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}"))


def load_recipe(name: str) -> Recipe:
    """A recipe by its name, or read from a TOML file.

    Args:
        name: of a recipe of this package, or a path that ends in `.toml`.

    Raises:
        DataError: there is none, its file has another form, or its settings are not valid; names the file.

    Example:
        >>> from training import load_recipe
        >>> load_recipe("cpu-wgan").config.generator.method
        'wgan'
    """
    return _load(_file(name, beside=Path()), ())


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with those of `over` in place of the same ones in `base`."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[name] = merged(below, value)
        else:
            result[name] = value
    return result


def _file(name: str, *, beside: Path) -> Path:
    if name.endswith(SUFFIX):
        return beside / name
    if name not in known_recipes():
        raise DataError(
            f"recipe {name!r}: there is none; known are {', '.join(known_recipes())}, or a path that ends in {SUFFIX}"
        )
    return FOLDER / f"{name}{SUFFIX}"


def _load(file: Path, through: Sequence[Path]) -> Recipe:
    """Read a file that the files in `through` extend, one the other."""
    file = file.resolve() if file.parent != FOLDER else file
    if file in through:
        raise DataError(f"{file}: a recipe extends itself, through {' and '.join(f.name for f in through)}")
    fields = _read(file)
    texts = {name: _text(file, name, fields.pop(name, "")) for name in _TEXTS}
    sources: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for base in _bases(file, fields.pop(_EXTENDS, [])):
        extended = _load(_file(base, beside=file.parent), (*through, file))
        sources |= extended.sources
        settings = merged(settings, extended.settings)
    name = file.stem if file.parent == FOLDER else file.name
    if texts["source"]:
        sources[name] = texts["source"]
    recipe = Recipe(name=name, summary=texts["summary"], sources=sources, settings=merged(settings, fields))
    try:
        _ = recipe.config
    except DataError as error:
        raise DataError(f"{file}: {error.message}", error.problems) from None
    return recipe


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"recipe {file}: no such file; known by name are {', '.join(known_recipes())}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"recipe {file}: cannot be read as TOML: {error}") from None


def _text(file: Path, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"recipe {file}: {name}: expected text, got {value!r}")
    return value


def _bases(file: Path, value: Any) -> Iterator[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"recipe {file}: {_EXTENDS}: expected the name of a recipe or a list of names, got {value!r}")
    return iter(names)
