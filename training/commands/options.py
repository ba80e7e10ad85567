"""Options that several training commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.recipes import Recipe

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory made by `d3gzsl-train fit`.")]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DATA", help="Where the run's data are now, if they were moved.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]
IgnoreUnlisted = Annotated[
    bool, typer.Option("--ignore-unlisted", help="Leave out image folders that classes.csv does not name.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable images, listing them.")]
TextEncoderFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.onnx",
        help="Describe classes by the column `description`, too, encoded by what `text-encoder` wrote.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Splits = Annotated[
    str | None,
    typer.Option(
        metavar="att|sent", help="Of a benchmark: att_splits.mat (default where it is there) or sent_splits.mat."
    ),
]
TestFraction = Annotated[
    float,
    typer.Option(min=0, max=0.9, help="Share of each seen class's images kept for testing; a benchmark has its own."),
]
SplitSeed = Annotated[int, typer.Option(help="Which split into training and test images.")]
RecipeName = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE.toml", help="Settings to begin with; `d3gzsl-train recipes` lists the names."),
]
GeneratorName = Annotated[
    str | None,
    typer.Option(
        metavar="wgan|cegzsl|tfvaegan|diffusion",
        help="The base generator, over the recipe's; short for --set generator.method=.",
    ),
]
SettingOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, e.g. generator.hidden=512. Repeatable."),
]


def settled(recipe: str | None, generator: str | None, settings: list[str]) -> tuple[Recipe | None, TrainConfig]:
    """The recipe that was asked for, and all settings: defaults, then recipe, generator and overrides, in this order.

    Raises:
        DataError: there is no such recipe, or a setting is not valid.
    """
    from training.recipes import configured, load_recipe

    found = None if recipe is None else load_recipe(recipe)
    given = [] if generator is None else [f"generator.method={generator}"]
    return found, configured([*given, *settings], base=None if found is None else found.settings)
