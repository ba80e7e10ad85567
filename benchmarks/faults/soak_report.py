"""The results of benchmarks/faults/soak.py in words, and memory and open files as a drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def words(found: dict[str, Any], name: str) -> str:
    """The results as Markdown; `name` is that of the drawing beside it."""
    machine, memory, files = found["machine"], found["resident_mb"], found["files"]
    lines = [
        "# Soak",
        "",
        f"    {found['command']}",
        "",
        f"{machine['system']}, {machine['cpus']} cores, Python {machine['python']}, the demo bundle. Load before the "
        f"start: {found['load_before']}. {found['seconds'] / 60:.1f} minutes, and {found['paused_s']} seconds in which "
        f"nothing was sent because others measured. The service used {100 * found['cpu_share']:.0f} % of a core.",
        "",
        f"{found['requests']:,} requests, {found['registry_version']:,} versions of the class table, {found['failed']} "
        f"answers that were not asked for, {len(found['errors_in_log'])} errors in the log. {found['stops']} times the "
        f"machine stood still for more than a second; {len(found['interrupted'])} requests that were at work then "
        "failed and do not count.",
        "",
        "| target | held |",
        "|---|---|",
        *(f"| {target} | {'yes' if held else '**no**'} |" for target, held in found["within"].items()),
        "",
        f"At {found['rests']} moments of rest after warm-up:",
        "",
        "| | first | last | least | most |",
        "|---|---|---|---|---|",
        "| resident memory, MB | " + " | ".join(f"{memory[k]:.1f}" for k in ("first", "last", "least", "most")) + " |",
        "| open files | " + " | ".join(f"{files[k]}" for k in ("first", "last", "least", "most")) + " |",
        "",
        f"![Memory and open files over time]({name}.svg)",
        "",
        "| request or change | number |",
        "|---|---|",
        *(f"| {kind.replace('_', ' ')} | {number:,} |" for kind, number in found["by_kind"].items()),
        "",
        "| status | number |",
        "|---|---|",
        *(f"| {status} | {number:,} |" for status, number in found["by_status"].items()),
    ]
    return (
        "\n".join(
            [*lines, *(["", "Failures:", "", *(f"- `{f}`" for f in found["failures"])] if found["failures"] else [])]
        )
        + "\n"
    )


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw memory and open files over time; moments of rest are dots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    memory, files = figure.subplots(2, 1, sharex=True)
    for axes, key, label in ((memory, "resident_mb", "resident memory, MB"), (files, "files", "open files")):
        for rest, style in ((False, {"lw": 0.8, "color": "0.6"}), (True, {"marker": "o", "ms": 4, "lw": 1.2})):
            chosen = [held for held in found["held"] if held["rest"] is rest]
            axes.plot(
                [held["at"] / 60 for held in chosen],
                [held[key] for held in chosen],
                label="nobody sends anything" if rest else "under load",
                **style,
            )
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    memory.legend()
    files.set_xlabel("minutes")
    figure.savefig(file, metadata={"Date": None})
