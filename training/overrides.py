"""Settings given on the command line as `section.name=value`, over those of a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from model.errors import DataError, Problem
from training.config import TrainConfig
from training.recipe import merged


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
