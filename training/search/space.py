"""Which settings a search varies, and between which values."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna import Trial

from model.errors import DataError, Problem
from training.config import TrainConfig
from training.recipes import merged

_FIXED = ("seed", "selection")  # decide how H is measured, so they cannot be searched for a better one
_INTERVAL, _CHOICE = {"low", "high", "log"}, {"choices"}
_FORM = "{low, high, log} or {choices}"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Numbers from `low` up to `high`, whole ones where both are; `log` searches their logarithm."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial, name: str) -> float:
        """A value for a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def ends(self) -> tuple[Any, ...]:
        """The values between which all others are."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return bool(self.low <= value <= self.high)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Some values."""

    choices: tuple[Any, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value for a trial."""
        return trial.suggest_categorical(name, self.choices)

    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.choices


Space = Mapping[str, Interval | Choices]
"""What is searched, by the name of the setting, such as `generator.hidden`."""


def space_json(space: Space) -> dict[str, dict[str, Any]]:
    """The space as JSON values."""
    return {name: asdict(values) for name, values in space.items()}


def default_space(base: TrainConfig) -> Space:
    """What is searched where nothing else is said: around the settings that the search begins with.

    A weight that is 0 stays so, and what the generator does not have is left out. The length needs no search: each
    trial measures several and takes the best.
    """
    d3, method = base.d3, base.generator.method
    numbers: dict[str, tuple[float, float, float]] = {  # value, factor to either side, largest sensible value
        "learning_rate": (base.learning_rate, 8, math.inf),
        "generator.learning_rate_factor": (base.generator.learning_rate_factor, 10, 1),
        "d3.label_distillation": (d3.label_distillation, 30, math.inf),
        "d3.embedding_distillation": (d3.embedding_distillation, 30, math.inf),
        "d3.ood_distillation": (d3.ood_distillation, 30, math.inf),
        "d3.generator_share": (d3.generator_share, 100, 1),
        "d3.embedding_lr_factor": (d3.embedding_lr_factor, 30, 1),
    }
    if method != "diffusion":
        numbers["generator.gp_weight"] = (base.generator.gp_weight, 4, math.inf)
    if method == "cegzsl":
        numbers["contrastive.instance_weight"] = (base.contrastive.instance_weight, 30, math.inf)
        numbers["contrastive.class_weight"] = (base.contrastive.class_weight, 30, math.inf)
    if method == "tfvaegan":
        numbers["vae.weight"] = (base.vae.weight, 10, math.inf)
        numbers["vae.semantic_weight"] = (base.vae.semantic_weight, 10, math.inf)
    space: dict[str, Interval | Choices] = {
        name: Interval(low=value / factor, high=max(value, min(value * factor, largest)), log=True)
        for name, (value, factor, largest) in numbers.items()
        if value
    }
    hidden = base.generator.hidden
    space["generator.hidden"] = Choices(choices=tuple(sorted({max(1, hidden // 2), hidden, 2 * hidden})))
    if d3.ood_distillation:
        space["d3.ood_target"] = Choices(choices=("domain", "class"))
    return space


def read_space(file: Path, base: TrainConfig) -> Space:
    """A search space in TOML: a setting's name to `{low, high, log}` or `{choices}`.

    Args:
        file: names may be written with dots or as tables, as in a recipe.
        base: settings that the search begins with.

    Raises:
        DataError: the file cannot be read, or a name or range is not valid; names every one.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"--space {file}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"--space {file}: cannot be read as TOML: {error}") from None
    fields = base.to_json()
    space: dict[str, Interval | Choices] = {}
    problems: list[Problem] = []
    for name, given in _entries(tables, fields, ""):
        found = _parse(given, _value_of(name, fields)) if name.split(".")[0] not in _FIXED else _refusal(name)
        if isinstance(found, str):
            problems.append(Problem(pointer=name, detail=found))
        else:
            space[name] = found
            problems += _unfit(name, found, fields)
    if not space and not problems:
        problems.append(Problem(pointer="", detail=f"expected at least one setting with {_FORM}, got none"))
    if problems:
        raise DataError(f"--space {file}: the search space is not valid", problems)
    return space


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as nested ones."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        result = merged(result, value)
    return result


def start(space: Space, base: TrainConfig) -> dict[str, Any]:
    """The values of the settings that the search begins with, where the space holds them."""
    fields = base.to_json()
    values = {name: _value_of(name, fields) for name in space}
    return {name: value for name, value in values.items() if space[name].holds(value)}


def _entries(tables: Mapping[str, Any], fields: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted names with what is given for them; tables are entered only where the configuration has a section."""
    for name, given in tables.items():
        below = fields.get(name) if isinstance(fields, Mapping) else None
        if isinstance(below, Mapping) and isinstance(given, Mapping):
            yield from _entries(given, below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", given


def _value_of(name: str, fields: Any) -> Any:
    """The value of a setting; None where there is no such setting."""
    for part in name.split("."):
        fields = fields.get(part) if isinstance(fields, Mapping) else None
    return fields


def _refusal(name: str) -> str:
    return f"{name} decides how H is measured, so it cannot be searched for a better one"


def _parse(given: Any, now: Any) -> Interval | Choices | str:
    """What is given for a setting with a value now, or what is wrong with it."""
    if now is None:
        return "no such setting; `d3gzsl-train recipes cpu` prints them all"
    if isinstance(now, Mapping | tuple | list):
        return "cannot be searched, only single values can"
    if not isinstance(given, Mapping) or not (set(given) == _CHOICE or {"low", "high"} <= set(given) <= _INTERVAL):
        return f"expected {_FORM}, got {given!r}"
    if "choices" in given:
        choices = given["choices"]
        if not isinstance(choices, list) or not choices or len(set(map(repr, choices))) != len(choices):
            return f"choices: expected a list of different values, got {choices!r}"
        return Choices(choices=tuple(float(c) if _is_number(c) and isinstance(now, float) else c for c in choices))
    low, high, log = given["low"], given["high"], given.get("log", False)
    if isinstance(now, str | bool):
        return f"expected choices, as its value is no number but {now!r}"
    if not (_is_number(low) and _is_number(high) and low < high):
        return f"expected numbers low < high, got low {low!r} and high {high!r}"
    if isinstance(now, int) and not (isinstance(low, int) and isinstance(high, int)):
        return f"expected whole numbers, got low {low!r} and high {high!r}"
    if not isinstance(log, bool) or (log and low <= 0):
        return f"log: expected true or false, and low above 0 where it is true, got log {log!r} and low {low!r}"
    return (
        Interval(low=low, high=high, log=log)
        if isinstance(now, int)
        else Interval(low=low * 1.0, high=high * 1.0, log=log)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unfit(name: str, values: Interval | Choices, fields: Mapping[str, Any]) -> Iterator[Problem]:
    """What the configuration says against the ends of a range."""
    for value in values.ends():
        try:
            TrainConfig.from_json(merged(fields, nested({name: value})))
        except DataError as error:
            yield from error.problems
