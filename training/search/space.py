"""Which settings a search varies, and between which values: Optuna's distributions by the names of settings."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from model.errors import DataError, Problem
from training.config import TrainConfig
from training.recipes import merged

_FIXED = ("seed", "selection")  # decide how H is measured, so they cannot be searched for a better one
_FORM = "{low, high, log} or {choices}"

SearchSpace = Mapping[str, BaseDistribution]
"""What is searched, by the name of the setting, such as `generator.hidden`."""


def space_json(space: SearchSpace) -> dict[str, dict[str, Any]]:
    """The space as JSON values."""
    return {name: json.loads(distribution_to_json(distribution)) for name, distribution in space.items()}


def default_space(base: TrainConfig) -> SearchSpace:
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
    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(value / factor, max(value, min(value * factor, largest)), log=True)
        for name, (value, factor, largest) in numbers.items()
        if value
    }
    hidden = base.generator.hidden
    space["generator.hidden"] = CategoricalDistribution(sorted({max(1, hidden // 2), hidden, 2 * hidden}))
    if d3.ood_distillation:
        space["d3.ood_target"] = CategoricalDistribution(("domain", "class"))
    return space


def read_space(file: Path, base: TrainConfig) -> SearchSpace:
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
    space: dict[str, BaseDistribution] = {}
    problems: list[Problem] = []
    for name, given in _entries(tables, fields, ""):
        try:
            space[name] = _distribution(name, given, fields)
        except DataError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(Problem(pointer=name, detail=str(error)))
    if not space and not problems:
        problems.append(Problem(pointer="", detail=f"expected at least one setting with {_FORM}, got none"))
    if problems:
        raise DataError(f"--space {file}: the search space is not valid", problems)
    return space


def suggest(trial: Trial, space: SearchSpace) -> dict[str, Any]:
    """Values of a trial for all settings of the space."""
    return {name: _suggested(trial, name, distribution) for name, distribution in space.items()}


def _suggested(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case IntDistribution(low=low, high=high, log=log):
            return trial.suggest_int(name, low, high, log=log)
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise AssertionError(distribution)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as nested ones."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        result = merged(result, value)
    return result


def initial_values(space: SearchSpace, base: TrainConfig) -> dict[str, Any]:
    """The values of the settings that the search begins with, where the space holds them."""
    fields = base.to_json()
    values = {name: _value_of(name, fields) for name in space}
    return {name: value for name, value in values.items() if _holds(space[name], value)}


def _holds(distribution: Any, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return bool(distribution.low <= value <= distribution.high)


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


def _distribution(name: str, given: Any, fields: Mapping[str, Any]) -> BaseDistribution:
    """What is given for a setting, with values of the setting's type.

    Raises:
        ValueError: it has another form.
        DataError: the configuration takes no such value for the setting.
    """
    now = _value_of(name, fields)
    if name.split(".")[0] in _FIXED:
        raise ValueError(f"{name} decides how H is measured, so it cannot be searched for a better one")
    if now is None:
        raise ValueError("no such setting; `d3gzsl-train recipes cpu` prints them all")
    if isinstance(now, Mapping | tuple):
        raise ValueError("cannot be searched, only single values can")
    match given:
        case {"choices": list(choices)} if len(given) == 1:
            choices = _fitted(name, choices, fields)
            if not choices or len(set(choices)) < len(choices):
                raise ValueError(f"choices: expected a list of different values, got {choices!r}")
            return CategoricalDistribution(choices)
        case {"low": low, "high": high, **more} if set(more) <= {"log"}:
            log = more.get("log", False)
            if not isinstance(log, bool):
                raise ValueError(f"log: expected true or false, got {log!r}")
            if isinstance(now, str | bool):
                raise ValueError(f"expected choices, as its value is no number but {now!r}")
            low, high = _fitted(name, (low, high), fields)
            kind = IntDistribution if isinstance(now, int) else FloatDistribution
            return kind(low, high, log=log)
    raise ValueError(f"expected {_FORM}, got {given!r}")


def _fitted(name: str, values: Iterable[Any], fields: Mapping[str, Any]) -> list[Any]:
    """Values as the configuration takes them for a setting."""
    configs = [TrainConfig.from_json(merged(fields, nested({name: value}))) for value in values]
    return [_value_of(name, config.to_json()) for config in configs]
