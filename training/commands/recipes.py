"""`d3gzsl-train recipes`: the settings that come with this program."""

from __future__ import annotations

from typing import Annotated

import typer

from training import console
from training.commands.options import AsJson


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE.toml]", help="Print this recipe with all its settings.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes that `fit --recipe` and `tune --recipe` know, or print one with all its settings resolved.

    What is printed is TOML and a recipe itself.
    """
    from training.recipe import known_recipes, load_recipe

    if name is None:
        found = [load_recipe(known) for known in known_recipes()]
        width = max(len(recipe.name) for recipe in found)
        lines = "\n".join(f"{recipe.name:{width}}  {recipe.summary}" for recipe in found)
        console.result({"recipes": [recipe.to_json() for recipe in found]}, lines, as_json=as_json)
        return
    recipe = load_recipe(name)
    fields = {**recipe.to_json(), "config": recipe.config.to_json()}
    console.result(fields, recipe.resolved_text().rstrip("\n"), as_json=as_json)
