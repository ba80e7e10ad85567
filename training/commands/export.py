"""`d3gzsl-train export`: a run to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from training import console
from training.commands.options import AsJson, Data, Overwrite, RunDir


def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder the bundle is written to.")],
    data: Data = None,
    head: Annotated[
        str | None, typer.Option(metavar="lda|softmax", help="Form of the head; else the one validation chose.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the backbone, calibrated on images of the training.")
    ] = False,
    int8_limit: Annotated[float, typer.Option(help="Points of H that int8 may lose, 0 to 100.")] = 0.5,
    calibration_images: Annotated[int, typer.Option(help="Training images that int8 is calibrated on.")] = 128,
    images: Annotated[
        Path | None, typer.Option(metavar="IMAGES_DIR", help="Where the training's data folder is, if it was moved.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the bundle that `d3gzsl serve --bundle` takes; every ONNX graph is held against torch first."""
    from training.exporting.export import export as run
    from training.run_dir.contents import Trained
    from training.sources import reopen

    trained = Trained.load(run_dir)
    dataset = reopen(trained, moved_to=data)
    if int8:
        from training.exporting.int8_export import Int8Export
        from training.exporting.run_images import RunImages

        source = RunImages.of(trained, features=data, root=images)
        with console.progress_bar(quiet=as_json) as bar:
            steps: dict[str, TaskID] = {}

            def show(step: str, done: int, total: int) -> None:
                if step not in steps:
                    steps[step] = bar.add_task(step, total=total)
                bar.update(steps[step], completed=done)

            plan = Int8Export(images=source, limit=int8_limit, calibration_images=calibration_images, on_images=show)
            written = run(dataset, trained, out, head=head, int8=plan, overwrite=overwrite)
    else:
        written = run(dataset, trained, out, head=head, overwrite=overwrite)
    sentence = f"{out}: bundle {written['bundle_id']}; next: d3gzsl serve --bundle {out}"
    if int8:
        found = written["metrics"]["int8"]
        sentence += (
            f"\nH on {found['images']} {found['measured_on']}: {100 * found['int8']['H']:.2f} in int8, "
            f"{100 * found['fp32']['H']:.2f} in float32"
        )
    console.result({"out": str(out), **written}, sentence, as_json=as_json)
