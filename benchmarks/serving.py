"""The service against a bare loop, against peers, against a perfect queue, and with three times too much to do.

    python benchmarks/serving.py --work FOLDER --out benchmarks/results/DATE-serving.json [--part throughput ...]

The network is a ResNet-101 at 224 with random weights, which cost what trained ones cost, made by `d3gzsl-train
backbone` in FOLDER the first time; or --backbone names another. Images are JPEGs of 500 x 375. Everybody runs the same
ONNX file with the same number of threads, except plain FastAPI, which runs the same network in torch. Clients are in
this process, on the same machine. Parts can be run alone; their results are laid over those that the file has.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.registry import machine, make_bundle  # noqa: E402
from benchmarks.rows import command  # noqa: E402
from benchmarks.serving_bench import Bare, Bench  # noqa: E402
from benchmarks.serving_bulk import bulk, ray  # noqa: E402
from benchmarks.serving_int8 import default_export  # noqa: E402
from benchmarks.serving_load import closed, one_by_one  # noqa: E402
from benchmarks.serving_peers import NEEDS, peer, versions  # noqa: E402
from benchmarks.serving_queue import memory_mb, overload, poisson  # noqa: E402
from benchmarks.serving_table import draw, table  # noqa: E402
from model.bundle import Bundle  # noqa: E402

Results = dict[str, Any]


def throughput(bench: Bench) -> Results:
    """The bare loop, ours with the same file, ours with a default export, and every peer, in turns.

    Each is started for its turn alone, since some that wait for work use the CPU meanwhile.
    """
    clients = 2 * bench.batch
    both = default_export(bench)
    services: dict[str, Callable[[], Any]] = {
        "ours": bench.serving,
        "default": both.serving,
        **{name: partial(_peer, bench, name) for name in bench.peers},
    }
    rates: dict[str, list[float]] = {name: [] for name in ("bare", *services)}
    for _ in range(bench.rounds):
        bare = Bare(bench)
        rates["bare"].append(bare.rate(bench.seconds))
        del bare
        for name, service in services.items():
            with service() as target:
                rates[name].append(closed(target, bench.images, clients=clients, seconds=bench.seconds))
    speeds = {name: statistics.median(values) for name, values in rates.items()}
    found: Results = {
        "images_per_s": speeds,
        "rounds": rates,
        "clients": clients,
        "versions": {name: versions(name, bench.work, bench.uv) for name in bench.peers},
        "ratio_to_bare": speeds["ours"] / speeds["bare"],
        "within": {
            "throughput >= 0.98 of the bare loop": speeds["ours"] >= 0.98 * speeds["bare"],
            **{f"faster than {name}": speeds["ours"] > speeds[name] for name in bench.peers},
        },
    }
    if bench.peers:
        wanted = 2.5 if has_vnni() else 1.5
        found["default_to_best_peer"] = speeds["default"] / max(speeds[name] for name in bench.peers)
        found["within"][f"a default export >= {wanted} times the best peer"] = found["default_to_best_peer"] >= wanted
    return found


def has_vnni() -> bool:
    """Whether the CPU multiplies and adds bytes in one instruction."""
    about = Path("/proc/cpuinfo")
    return about.exists() and bool(re.search(r"\b(avx512_vnni|avx_vnni)\b", about.read_text()))


def single(bench: Bench) -> Results:
    """One image at a time: what a request takes beyond its own decoding and session, which its answer names.

    So both are of the same moment: the machine's speed changes by more than is looked for. The same work without a
    service is measured in turns with it, for the reader to compare. The client sends bytes that were made ready before,
    so that its own time does not count.
    """
    bare, alone, served, over = Bare(bench), [], [], []
    count = max(5, min(50, round(bench.seconds * 2)))
    with bench.serving() as target:
        one_by_one(target, bench.images, 3)
        for _ in range(bench.rounds):
            alone += [1000 * bare.one(bench.images[i % len(bench.images)]) for i in range(count)]
            for seconds, answer in one_by_one(target, bench.images, count):
                own = json.loads(answer)["timing_ms"]
                served.append(1000 * seconds)
                over.append(served[-1] - own["decode"] - own["inference"])
    return {
        "decode_and_session_alone_ms": statistics.median(alone),
        "request_ms": statistics.median(served),
        "over_ms": statistics.median(over),
        "over_ms_quartiles": np.quantile(over, [0.25, 0.75]).tolist(),
        "count": len(served),
        "within": {"one image <= 3 ms over decode and session": statistics.median(over) <= 3},
    }


def start(bench: Bench) -> Results:
    """Memory and time to ready, ours and a bare process that loads the same sessions and runs the largest batch."""
    with bench.serving():
        pass  # makes the database, which only a first start does
    found: Results = {"bare": [], "ours": []}
    for _ in range(bench.rounds):
        found["bare"].append(_bare_process(bench))
        with bench.serving() as target:
            closed(target, bench.images, clients=2 * bench.batch, seconds=min(bench.seconds, 5))
            found["ours"].append({"ready_s": target.ready_s, "mb": memory_mb(target.pid)})
    for key in ("ready_s", "mb"):
        medians = {who: statistics.median(one[key] for one in found[who]) for who in ("bare", "ours")}
        found[f"{key}_over"] = medians["ours"] - medians["bare"]
    found["within"] = {
        "ready <= 2 s over a bare process": found["ready_s_over"] <= 2,
        "memory <= 150 MB over a bare process": found["mb_over"] <= 150,
    }
    return found


_BARE_PROCESS = """
import sys, time
import numpy as np, onnxruntime as ort
trunk, synthesizer, threads, batch, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
sessions = [ort.InferenceSession(f, options, providers=["CPUExecutionProvider"]) for f in (trunk, synthesizer)]
sessions[0].run(["embedding", "teacher_score"], {"image": np.zeros((batch, 3, size, size), np.float32)})
print("ready", flush=True)
sys.stdin.read()
"""


def _bare_process(bench: Bench) -> Results:
    bundle = Bundle.load(bench.bundle)
    sizes = [str(n) for n in (bench.threads, bench.batch, bundle.manifest.preprocess.size)]
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _BARE_PROCESS, str(bundle.trunk), str(bundle.synthesizer), *sizes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = {"ready_s": time.perf_counter() - began, "mb": memory_mb(process.pid)}
        process.communicate("")
    return found


def spinning(bench: Bench) -> Results:
    """Whether idle threads of ONNX Runtime should spin: the bare loop with and without, in turns."""
    rates: dict[str, list[float]] = {"off": [], "on": []}
    for _ in range(bench.rounds):
        for name, values in rates.items():
            values.append(Bare(bench, spinning=name == "on").rate(bench.seconds))
    return {"images_per_s": {name: statistics.median(values) for name, values in rates.items()}, "rounds": rates}


def int8(bench: Bench) -> Results:
    """The trunk in int8 against the one in float32: the bare loop, and the session alone, in turns."""
    loops = {"fp32": Bare(bench), "int8": Bare(default_export(bench), precision="int8")}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    sessions: dict[str, list[float]] = {name: [] for name in loops}
    batch = np.stack([loops["fp32"].decode(bench.images[i % len(bench.images)]) for i in range(bench.batch)])
    for _ in range(bench.rounds):
        for name, loop in loops.items():
            rates[name].append(loop.rate(bench.seconds))
            sessions[name].append(bench.batch / loop.run(batch))
    found = {
        "images_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "session_images_per_s": {name: statistics.median(values) for name, values in sessions.items()},
        "rounds": rates,
    }
    ratio = found["images_per_s"]["int8"] / found["images_per_s"]["fp32"]
    return {**found, "ratio": ratio, "within": {"int8 >= 1.5 times float32": ratio >= 1.5}}


PARTS: dict[str, Callable[[Bench], Results]] = {
    "throughput": throughput,
    "single": single,
    "poisson": poisson,
    "overload": overload,
    "start": start,
    "spinning": spinning,
    "int8": int8,
    "bulk": bulk,
    "ray": ray,
}


def _peer(bench: Bench, name: str) -> Any:
    sizes = {"threads": bench.threads, "batch": bench.batch}
    return peer(name, bench.bundle, bench.work, **sizes, weights=bench.weights, uv=bench.uv)


def photos(count: int) -> list[bytes]:
    """JPEGs of 500 x 375 with some texture."""
    from PIL import Image

    files = []
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((500, 375)).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def resnet(work: Path) -> tuple[Path, Path]:
    """A ResNet-101 with random weights: its ONNX file and its state dict."""
    backbone, weights = work / "resnet101.onnx", work / "resnet101.pt"
    if not backbone.exists():
        import torch
        import torchvision

        torch.manual_seed(0)
        torch.save(torchvision.models.resnet101().state_dict(), weights)
        made = [sys.executable, "-m", "training.cli", "backbone", "--weights", str(weights), "--out", str(backbone)]
        subprocess.run(made, check=True, cwd=sys.path[0])
    return backbone, weights


def prepare(arguments: argparse.Namespace) -> Bench:
    work: Path = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    backbone, weights = (arguments.backbone, None) if arguments.backbone else resnet(work)
    bundle = work / f"bundle-{backbone.stem}"
    if not bundle.exists():
        make_bundle(backbone, bundle)
    return Bench(
        bundle=bundle,
        backbone=backbone,
        work=work,
        images=photos(16),
        threads=arguments.threads,
        batch=arguments.batch,
        seconds=arguments.seconds,
        overload_seconds=arguments.overload_seconds,
        rounds=arguments.rounds,
        weights=weights,
        peers=tuple(arguments.peers) if weights else tuple(p for p in arguments.peers if p != "fastapi"),
        uv=arguments.uv,
    )


def main() -> None:
    arguments = parse()
    bench = prepare(arguments)
    results: Results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.part or PARTS:
        # The load says whether others were at work on the machine.
        results[name] = {
            "machine": machine(bench.threads),
            "batch": bench.batch,
            "command": command("serving.py"),
        } | PARTS[name](bench)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
        arguments.out.with_suffix(".md").write_text(table(results))
        arguments.out.with_suffix(".svg").write_text(draw(results))
        shown = {key: value for key, value in results[name].items() if key not in ("memory_mb", "rounds", "batch_s")}
        sys.stdout.write(f"{name}: {json.dumps(shown, indent=2)}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="Folder for networks, environments and logs.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="Only this; may be repeated.")
    parser.add_argument("--backbone", type=Path, help="Another backbone; then there is no peer in torch.")
    parser.add_argument("--peers", nargs="*", choices=list(NEEDS), default=list(NEEDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0, help="Of each measurement.")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uv", default="uv", help="The program that makes the peers' environments.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
