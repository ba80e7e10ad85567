"""Time of an outer step of a recipe, and the arithmetic limit of the machine for it, in one run.

    python benchmarks/step_limit.py --out benchmarks/results/DATE-training-limit [--before FOLDER] [--threads 2]

The step is that of `flo-wgan` on rows generated for the purpose, in FLO's sizes but for their number. Its products are
read from a profile. The limit is the sum of their times alone, each with operands of its shape, plus the bytes that
Adam and the moving average must move at the bandwidth of memory. FOLDER is a checkout of other code, whose steps are
taken in turns with this one's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("STEP_LIMIT_ROOT", Path(__file__).parent.parent)).resolve()
sys.path[0] = str(ROOT)  # not this folder, whose modules are named as packages are

import torch  # noqa: E402

from benchmarks.outer_step import generated  # noqa: E402
from benchmarks.rows import command  # noqa: E402
from benchmarks.timing import machine  # noqa: E402
from training.method.trainer import Trainer  # noqa: E402
from training.recipes import load_recipe  # noqa: E402
from training.runs.contents import code_commit  # noqa: E402

SIZES = {"rows": 1_640, "features": 1_280, "attributes": 1_024, "seen": 82, "unseen": 20}
ADAM_BYTES, AVERAGE_BYTES = 28, 12  # a parameter: gradient, weight and two moments read, three written; three moved
PRODUCTS = {"aten::mm": (0, 1), "aten::addmm": (1, 2)}
LEAST_SHARE = 0.01  # of the limit, for a product to be listed
STREAM = 32 << 20  # numbers of an array far larger than the caches


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    trainer = trainer_of(arguments.recipe)
    if arguments.serve:  # as the other side: a step for each line, and its seconds
        for _ in sys.stdin:
            print(step(trainer), flush=True)
        return
    other = begin(arguments) if arguments.before else None
    seconds: dict[str, list[float]] = {"step": [], "before": []}
    step(trainer)
    for _ in range(arguments.repeats):
        seconds["step"].append(step(trainer))
        if other:
            seconds["before"].append(float(ask(other)))
        print({name: taken[-1:] for name, taken in seconds.items()}, file=sys.stderr, flush=True)
    products, adam, average = limits(trainer)
    times = {shape: alone(*shape) for shape in products}
    bandwidth = stream_bandwidth()
    parts = {
        "products": sum(count * times[shape] for shape, count in products.items()),
        "adam": adam * ADAM_BYTES / bandwidth,
        "moving average": average * AVERAGE_BYTES / bandwidth,
    }
    found: dict[str, Any] = {
        "command": command("step_limit.py"),
        "recipe": arguments.recipe,
        **SIZES,
        "commit": code_commit(),
        **machine(torch.device("cpu")),
        "step_s": statistics.median(seconds["step"]),
        "step_fastest_s": min(seconds["step"]),
        "before_s": statistics.median(seconds["before"]) if other else None,
        "before_fastest_s": min(seconds["before"]) if other else None,
        "limit_s": sum(parts.values()),
        "limit_parts_s": parts,
        "bandwidth_GB_per_s": bandwidth / 1e9,
        "gflop": sum(2e-9 * m * k * n * count for (m, k, n), count in products.items()),
        "products": [
            {
                "m": m,
                "k": k,
                "n": n,
                "count": count,
                "seconds": times[m, k, n],
                "gflop_per_s": 2e-9 * m * k * n / times[m, k, n],
            }
            for (m, k, n), count in sorted(products.items(), key=lambda item: -item[1] * times[item[0]])
        ],
        "repeats": arguments.repeats,
    }
    out = Path(arguments.out)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(found, command("step_limit.py")))
    if arguments.profile:
        out.with_suffix(".txt").write_text(profile(trainer).table(sort_by="self_cpu_time_total", row_limit=60))
    print(json.dumps({k: v for k, v in found.items() if k != "products"}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="step")
    parser.add_argument("--recipe", default="flo-wgan")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--before", type=Path, help="a checkout of other code")
    parser.add_argument("--profile", action="store_true", help="write the profile of a step, too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def trainer_of(recipe: str) -> Trainer:
    """A training whose generator takes its step from the beginning; its teacher, which is not timed, knows little."""
    config = load_recipe(recipe).config
    config = replace(
        config,
        steps=1,
        teacher=replace(config.teacher, epochs=1),
        generator=replace(config.generator, warm_up=0, path_ridge=(0.3,)),
    )
    return Trainer(generated(**SIZES, device=torch.device("cpu")), config)


def table(found: dict[str, Any], command: str) -> str:
    """The step before and now, its limit and what that is made of."""
    parts = found["limit_parts_s"]
    steps = [("now", found["step_s"], found["step_fastest_s"])]
    if found["before_s"] is not None:
        steps.insert(0, ("before", found["before_s"], found["before_fastest_s"]))
    lines = [
        f"# An outer step of `{found['recipe']}` and the limit of the machine",
        "",
        f"{found['cpu']}, threads: {found['threads']}, torch {found['torch']}; commit {found['commit']}.",
        f"{found['rows']:,} generated rows of {found['features']:,} features, {found['attributes']:,} attributes, "
        f"{found['seen']} seen and {found['unseen']} unseen classes; {found['repeats']} steps of each code, in turns.",
        "",
        "    " + command,
        "",
        "| step | ms, median | times the limit | ms, fastest | times the limit |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {1e3 * median:,.0f} | {median / found['limit_s']:.2f} | {1e3 * fastest:,.0f} | "
            f"{fastest / found['limit_s']:.2f} |"
            for name, median, fastest in steps
        ),
        "",
        f"The limit is {1e3 * found['limit_s']:,.0f} ms: {found['gflop']:.1f} GFLOP of products, each timed alone "
        f"({1e3 * parts['products']:,.0f} ms), Adam's {1e3 * parts['adam']:,.0f} ms and the moving average's "
        f"{1e3 * parts['moving average']:,.0f} ms at {found['bandwidth_GB_per_s']:.0f} GB/s.",
        "",
        "| product | times in a step | ms alone | GFLOP/s |",
        "|---|---|---|---|",
    ]
    for one in found["products"]:
        if one["count"] * one["seconds"] > LEAST_SHARE * found["limit_s"]:
            shape = f"[{one['m']}, {one['k']}] [{one['k']}, {one['n']}]"
            lines.append(f"| {shape} | {one['count']} | {1e3 * one['seconds']:.1f} | {one['gflop_per_s']:.0f} |")
    return "\n".join(lines) + "\n"


def begin(arguments: argparse.Namespace) -> subprocess.Popen[str]:
    words = [sys.executable, __file__, "--serve", "--recipe", arguments.recipe, "--threads", str(arguments.threads)]
    environment = {**os.environ, "STEP_LIMIT_ROOT": str(arguments.before.resolve())}
    other = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ask(other)
    return other


def ask(other: subprocess.Popen[str]) -> str:
    assert other.stdin
    assert other.stdout
    other.stdin.write("\n")
    other.stdin.flush()
    return other.stdout.readline()


def step(trainer: Trainer) -> float:
    """Seconds of an epoch of one outer step."""
    begun = time.perf_counter()
    trainer.run_epoch()
    return time.perf_counter() - begun


def profile(trainer: Trainer) -> Any:
    with torch.profiler.profile(record_shapes=True) as profiler:
        trainer.run_epoch()
    return profiler.key_averages(group_by_input_shape=True)


def limits(trainer: Trainer) -> tuple[Counter[tuple[int, int, int]], int, int]:
    """How often each product [m, k] @ [k, n] is taken in a step; parameters that Adam steps, and that are averaged."""
    products: Counter[tuple[int, int, int]] = Counter()
    adam = average = 0
    for event in profile(trainer):
        if event.key in PRODUCTS:
            left, right = (event.input_shapes[place] for place in PRODUCTS[event.key])
            products[left[0], left[1], right[1]] += event.count
    settings = trainer._config.generator
    for optimiser in trainer._optimisers:
        size = sum(p.numel() for group in optimiser.param_groups for p in group["params"])
        times = settings.critic_steps * (optimiser not in trainer._optimisers.generator)
        times += optimiser not in trainer._optimisers.critic
        adam += size * times
    average = sum(p.numel() for p in trainer.networks.generator.parameters())
    return products, adam, average


def alone(m: int, k: int, n: int) -> float:
    """Seconds of a product [m, k] @ [k, n] alone."""
    left, right, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    return median_seconds(lambda: torch.mm(left, right, out=out))


def stream_bandwidth() -> float:
    """Bytes a second of one long array added to another in place: as with Adam, what is written was read before."""
    a, b = (torch.ones(STREAM) for _ in range(2))
    return 3 * 4 * STREAM / median_seconds(lambda: a.add_(b))


def median_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    run()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
