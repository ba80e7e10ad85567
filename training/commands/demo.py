"""`d3gzsl-train demo`: the embedded bundle, rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from training import console
from training.commands.options import AsJson, Overwrite


def demo(
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder the bundle is written to.")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Build the demo bundle from nothing: draw images, train a slim ResNet-101, train D3GZSL, export. Under an hour."""
    from training.demo.build import DemoConfig, build_demo

    with console.progress_bar(quiet=as_json) as bar:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        built = build_demo(out, DemoConfig(), overwrite=overwrite, progress=progress)
    served = built["metrics"][built["metrics"]["served"]]
    sentence = f"{out}: bundle {built['bundle_id']}; U {served['U']:.3f}, S {served['S']:.3f}, H {served['H']:.3f}"
    console.result({"out": str(out), **built}, sentence, as_json=as_json)
