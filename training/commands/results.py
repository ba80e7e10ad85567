"""`d3gzsl-train evaluate`, `report`, `export` and `demo`: what a run, or the demo, gives."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import TaskID

from training import console
from training.commands.options import AsJson, Data, Device, Overwrite, RunDir


def evaluate(run_dir: RunDir, data: Data = None, device: Device = "auto", as_json: AsJson = False) -> None:
    """Measure U, S, H, T1, AUSUC, calibration and the AUROC of novelty.

    Writes metrics.json, curves.json and report.html into RUN_DIR.
    """
    from training.datasets.opening import reopen
    from training.device import choose_device
    from training.experiment import write_results
    from training.reporting.report import write_report
    from training.runs.contents import Trained

    target = choose_device(device)
    trained = Trained.load(run_dir)
    trained.networks.to(target)
    metrics = write_results(run_dir, reopen(trained.data, moved_to=data), trained)
    write_report(run_dir)
    console.result(metrics, table(metrics), as_json=as_json)


def table(metrics: dict[str, Any]) -> str:
    """The results as lines for people, the protocol below the numbers."""
    from training.reporting.report import titles

    columns = {"U": "U", "S": "S", "H": "H", "T1": "T1", "AUSUC": "AUSUC", "ece": "ECE"}
    lines = ["".join(["head".ljust(28), *(c.rjust(8) for c in columns.values())])]
    for key, title in titles(metrics).items():
        lines.append("".join([title.ljust(28), *(f"{metrics[key][c]:8.3f}" for c in columns)]))
    protocol = metrics["protocol"]
    rows, split = protocol["rows"], protocol["split"]
    lines += [
        _novelty(metrics["novelty"]),
        f"protocol: {protocol['selection']}; test images used for selection: "
        f"{'YES' if protocol['test_used_for_selection'] else 'no'}",
        f"  {protocol['metric']}",
        f"  {rows['trainval']} training rows, {rows['test_seen']} test rows of {protocol['classes']['seen']} seen and "
        f"{rows['test_unseen']} of {protocol['classes']['unseen']} unseen classes; seed {protocol['seed']}",
        f"  split: {split.get('rule', split)}",
        "  the rows of unseen classes are made with noise of this run; a bundle makes its own, so its U, S and H may "
        "differ a little",
    ]
    return "\n".join(lines)


def _novelty(found: dict[str, Any]) -> str:
    if found["score"] is None:
        return "novelty: none is served, as on validation no score told unseen from seen classes"
    return f"novelty: AUROC {found['auroc']:.3f} for unseen against seen test images, by {found['score']}"


def report(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Write RUN_DIR/report.html: results with their protocol, what validation chose, losses, accuracy per class.

    One file without scripts or anything from elsewhere. `fit` and `evaluate` write it too.
    """
    from training.reporting.report import write_report

    out = write_report(run_dir)
    console.result({"out": str(out)}, str(out), as_json=as_json)


def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder the bundle is written to.")],
    data: Data = None,
    precision: Annotated[
        Literal["auto", "fp32", "int8"],
        typer.Option(
            help="auto adds a trunk in int8 where it loses little on validation; int8 refuses where it loses more."
        ),
    ] = "auto",
    int8_limit: Annotated[float, typer.Option(help="Points of H that int8 may lose, 0 to 100.")] = 0.3,
    calibration_images: Annotated[int, typer.Option(help="Training images that int8 is calibrated on.")] = 128,
    images: Annotated[
        Path | None, typer.Option(metavar="IMAGES_DIR", help="Where the training's data folder is, if it was moved.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the bundle that `d3gzsl serve --bundle` takes; every ONNX graph is held against torch first."""
    from training.datasets.opening import reopen
    from training.exporting.export import export as run
    from training.exporting.precision import Int8Export
    from training.exporting.run_images import RunImages
    from training.runs.contents import Trained

    trained = Trained.load(run_dir)
    dataset = reopen(trained.data, moved_to=data)
    bar = console.progress_bar(quiet=as_json)
    steps: dict[str, TaskID] = {}

    def show(step: str, done: int, total: int) -> None:
        bar.start()  # with the first step, as most exports have none
        if step not in steps or bar.tasks[steps[step]].finished:
            steps[step] = bar.add_task(step, total=total)
        bar.update(steps[step], completed=done)

    plan = Int8Export(
        images=lambda: RunImages.of(trained, features=data, root=images),
        limit=int8_limit,
        calibration_images=calibration_images,
        required=precision == "int8",
        on_images=show,
    )
    try:
        written = run(dataset, trained, out, int8=None if precision == "fp32" else plan, overwrite=overwrite)
    finally:
        if steps:
            bar.stop()
    sentence = f"{out}: bundle {written['bundle_id']}; next: {_serve(out)}{_precisions(written)}"
    console.result({"out": str(out), **written}, sentence + _why_other(written, run_dir), as_json=as_json)


def _precisions(written: dict[str, Any]) -> str:
    """A line on the trunk in int8, where one was tried."""
    found = written["metrics"].get("precision")
    if found is None:
        return ""
    if "why_no_int8" in written:
        return f"\nthe bundle has the trunk in float32 alone: {written['why_no_int8']}"
    words = (
        f"\nthe bundle has its trunk in float32 and in int8; H on {found['images']} images of the "
        f"{found['measured_on']}: {100 * found['int8']['H']:.2f} in int8, {100 * found['fp32']['H']:.2f} in float32"
    )
    if (test := found.get("test")) is None:
        return words
    return f"{words}; on {test['images']} test images: {100 * test['int8']['H']:.2f}, {100 * test['fp32']['H']:.2f}"


def _serve(bundle: Path) -> str:
    return f"d3gzsl serve --bundle {shlex.quote(str(bundle))}"


def _why_other(written: dict[str, Any], run_dir: Path) -> str:
    """A line that says why H of the bundle is not that of `evaluate`, where it is another."""
    from training.runs.contents import METRICS, read_json

    if "lda" not in written["metrics"] or not (run_dir / METRICS).exists():
        return ""
    own, evaluated = (f"{metrics['lda']['H']:.3f}" for metrics in (written["metrics"], read_json(run_dir / METRICS)))
    if own == evaluated:
        return ""
    return (
        f"\nH {own} with the rows of this bundle, where `evaluate` has {evaluated}: each makes the rows of unseen "
        "classes with noise of its own"
    )


def demo(
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder the bundle is written to.")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Build the demo bundle from nothing: draw images, train a slim ResNet-101, train D3GZSL, export. Under an hour."""
    from training.demo.build import DemoConfig, build_demo

    with console.progress_bar(quiet=as_json) as bar:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        built = build_demo(out, DemoConfig(), overwrite=overwrite, progress=progress)
    served = built["metrics"]["lda"]
    sentence = f"{out}: bundle {built['bundle_id']}; U {served['U']:.3f}, S {served['S']:.3f}, H {served['H']:.3f}"
    console.result({"out": str(out), **built}, sentence, as_json=as_json)
