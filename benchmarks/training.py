"""What the cheap exact forms of training save, against plain renditions of the same maths (plain_forms.py), in one run.

    python benchmarks/training.py --out benchmarks/results/DATE-training [--threads 2] [--device cpu] [--only outer]

Writes OUT.json and OUT.md. Repetitions of both forms are interleaved. With a GPU it also trains
`wgan` + D3 on generated rows of AWA2's size for 100 epochs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.outer_step import awa2_training, outer_case
from benchmarks.timing import Case, compare, machine
from benchmarks.training_cases import Sizes, comparator_case, critic_case, pair_cases
from training.runs.contents import code_commit

KINDS = ("comparator", "pairs", "critic", "outer")
NO_GPU = "not run: no GPU"


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    rows = []
    for case in cases(Sizes(), device, arguments.only):
        rows.append(compare(case, repeats=arguments.repeats, device=device))
        print(line(rows[-1]), flush=True)
    report = {
        "command": "python " + " ".join(sys.argv),
        "commit": code_commit(),
        "machine": machine(device),
        "rows": rows,
        "awa2": awa2_training(device, precision=arguments.precision) if device.type == "cuda" else NO_GPU,
    }
    write(report, arguments.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves them as they are")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--precision", choices=["fp32", "tf32", "bf16"], default="fp32", help="of the AWA2-sized training"
    )
    parser.add_argument("--only", action="append", choices=KINDS, help="repeatable")
    return parser.parse_args()


def cases(sizes: Sizes, device: torch.device, only: list[str] | None) -> Iterator[Case]:
    """The chosen cases, each built when its turn comes."""
    wanted = set(only or KINDS)
    if "comparator" in wanted:
        yield comparator_case(sizes, device)
    if "pairs" in wanted:
        yield from pair_cases(sizes, device)
    if "critic" in wanted:
        yield critic_case(sizes, device)
    if "outer" in wanted:
        if device.type == "cuda":
            yield outer_case(replace(sizes, outer_steps=20), device, target=5)
        else:
            yield outer_case(sizes, device, target=1.5)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    note = f" ({row['note']})" if row["note"] else ""
    return (
        f"| {row['name']}{note} | {row['plain_s'] * 1e3:,.1f} | {row['fast_s'] * 1e3:,.1f} "
        f"| {row['ratio']:.1f} | {row['ratio_of_fastest']:.1f} | {row['repeats']} | {row['target']:g} |"
    )


def write(report: dict[str, Any], out: Path) -> None:
    """OUT.json and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    about, awa2 = report["machine"], report["awa2"]
    if awa2 != NO_GPU:
        awa2 = f"{awa2['seconds']:.0f} s in {awa2['precision']}"
    text = [
        "# Cheap exact forms of training against plain renditions",
        "",
        f"{about['gpu'] or about['cpu']}, threads: {about['threads']}, load average at the end: {about['load']}, "
        f"torch {about['torch']}; commit {report['commit']}.",
        "",
        f"    {report['command']}",
        "",
        "Medians; the ratio of the fastest repetitions is the one that other work on the machine disturbs least.",
        "",
        "| case | plain ms | in use ms | ratio | of the fastest | repetitions | target |",
        "|---|---|---|---|---|---|---|",
        *(line(row) for row in report["rows"]),
        "",
        f"Training of AWA2's size (23,527 x 2,048 generated rows, wgan + D3, batch 256, 100 epochs): {awa2}.",
    ]
    out.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
