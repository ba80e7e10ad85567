"""Classes at run time: registering one, a thousand, and living with a hundred thousand.

    python benchmarks/registry.py BACKBONE --out benchmarks/results/DATE-registry.json [--many 100000]

BACKBONE is a ResNet-101 as `d3gzsl-train backbone` writes it. The other networks have the default sizes and random
weights, which cost what trained ones cost. Everything is measured through HTTP at a `d3gzsl serve` process. The many
classes have random rows, written to the log by the code that every registration uses, a thousand in a version. With
`--folder`, the bundle and that log are kept and used again, so that the measurement itself is short.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rows import command  # noqa: E402

CLASSES, SEEN, ATTRIBUTES, HIDDEN = 50, 40, 85, 512
SAMPLES = 200
AT_ONCE = 1000
"""Classes of a version when the log is filled."""
LOOP_SIZES = (1, 5, 10, 20, 40)
"""Classes in one call of the synthesizer, of which the bare loop takes the fastest."""
_LISTENING = re.compile(r"on (http://\S+)")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        work, kept = Path(name), arguments.folder or Path(name)
        bundle, filled = kept / "bundle", kept / "many"
        if not bundle.exists():
            make_bundle(arguments.backbone, bundle)
        if not filled.exists():
            fill(bundle, filled, arguments.many)
        if arguments.prepare:
            return
        results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        results[f"command of {'-'.join(arguments.parts)}"] = command("registry.py")
        results["machine"] = machine(arguments.threads)
        if "classify" in arguments.parts:
            results |= few(bundle, work / "few", arguments)
            results |= many(bundle, filled, arguments)
            results |= in_turns(bundle, work / "few", filled, arguments)
        if "batch" in arguments.parts:
            results |= batch(bundle, work / "batch", arguments)
    text = json.dumps(results, indent=2)
    arguments.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")


def few(bundle: Path, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """With the bundle's 50 classes."""
    with serving(bundle, data, arguments.threads):
        pass  # makes the database
    with serving(bundle, data, arguments.threads) as (client, ready_s):
        ready_cpu_s = cpu_s(client)
        rest(client)
        classify_times(client, 1)
        memory = memory_mb(client)
        posts = post_times(client, arguments.posts, "p")
        client.post("/registry:rollback", json={"version": 0}).raise_for_status()
    return {
        "ready_few_s": ready_s,
        "ready_few_cpu_s": ready_cpu_s,
        "memory_few_mb": memory,
        "post_ms": posts,
    }


def batch(bundle: Path, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Classes registered by batches, in turn with a bare loop of the synthesizer over as many."""
    size, loop_s, batch_s, loop_cpu_s, batch_cpu_s, best = arguments.batch, [], [], [], [], 0
    with serving(bundle, data, arguments.threads) as (client, _):
        for round_ in range(arguments.rounds):
            seconds, cpu, best = bare_loop(bundle, size, arguments.threads, best)
            loop_s.append(seconds)
            loop_cpu_s.append(cpu)
            documents = [document(f"r{round_}b{i}") for i in range(size)]
            begun, before = time.perf_counter(), cpu_s(client)
            client.post("/classes:batch", json={"classes": documents}, timeout=600).raise_for_status()
            batch_s.append(time.perf_counter() - begun)
            batch_cpu_s.append(cpu_s(client) - before)

    def ratio(whole: list[float], bare: list[float]) -> float:
        return statistics.median(one / other for one, other in zip(whole[1:], bare[1:], strict=True))

    return {  # the first round, in which the service's memory grows, is in no ratio
        "batch": size,
        "batch_s": batch_s,
        "bare_loop_s": loop_s,
        "bare_loop_classes_at_once": best,
        "batch_ratio": ratio(batch_s, loop_s),
        "batch_cpu_s": batch_cpu_s,
        "bare_loop_cpu_s": loop_cpu_s,
        "batch_cpu_ratio": ratio(batch_cpu_s, loop_cpu_s),
    }


def bare_loop(bundle_dir: Path, count: int, threads: int, at_once: int) -> tuple[float, float, int]:
    """Seconds and CPU seconds of ONNX Runtime alone over the noise of `count` classes, at the fastest size of call.

    Args:
        bundle_dir: the bundle.
        count: classes.
        threads: of ONNX Runtime.
        at_once: classes in one call; 0 to find the fastest number.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # As the service's, whose CPU seconds are compared: threads that spin while they wait count as busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(bundle_dir / "synthesizer.onnx", options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    rows = SAMPLES * max(LOOP_SIZES)
    noise = random.standard_normal((rows, ATTRIBUTES), dtype=np.float32)
    described = np.full((rows, ATTRIBUTES), ATTRIBUTES**-0.5, dtype=np.float32)

    def run(size: int, classes: int) -> float:
        taken = {"noise": noise[: SAMPLES * size], "attributes": described[: SAMPLES * size]}
        begun = time.perf_counter()
        for _ in range(-(-classes // size)):
            session.run(None, taken)
        return (time.perf_counter() - begun) / (size * -(-classes // size))

    if at_once == 0:
        run(1, 1)
    best = at_once or min(LOOP_SIZES, key=lambda size: run(size, max(LOOP_SIZES)))
    before = time.process_time()
    seconds = run(best, count)
    return count * seconds, time.process_time() - before, best


def many(bundle: Path, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """With many more, most of them written straight to the log."""
    size = sum(file.stat().st_size for file in data.glob("*.sqlite3*"))
    readies, cpus, rests = [], [], []
    for _ in range(arguments.starts):
        with serving(bundle, data, arguments.threads) as (client, ready_s):
            readies.append(ready_s)
            cpus.append(cpu_s(client))
            rests.append(rest(client))
            known = client.get("/registry").json()
            version, seen = known["registry_version"], known["classes"]
            assert seen["unseen"] == arguments.many - SEEN, seen
            classify_times(client, 1)
            memory = memory_mb(client)
            posts = post_times(client, 20, "m")
            client.post("/registry:rollback", json={"version": version}).raise_for_status()
    return {
        "many": arguments.many,
        "database_mb": size / 1e6,
        "ready_many_all_s": readies,
        "ready_many_all_cpu_s": cpus,
        "rest_many_all_s": rests,
        "memory_many_mb": memory,
        "post_many_ms": posts,
    }


def in_turns(bundle: Path, few_data: Path, many_data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One image at a time, and images a second, at two services in turns, of which one has few classes and one many."""
    with (
        serving(bundle, few_data, arguments.threads) as (few, _),
        serving(bundle, many_data, arguments.threads) as (many, _),
    ):
        services = {"few": few, "many": many}
        for client in services.values():
            rest(client)
            classify_times(client, 3)
        times: dict[str, list[float]] = {name: [] for name in services}
        rates: dict[str, list[float]] = {name: [] for name in services}
        for _ in range(arguments.images):
            for name, client in services.items():
                times[name] += classify_times(client, 1)
        for _ in range(arguments.rounds):
            for name, client in services.items():
                rates[name].append(rate(client, arguments.seconds))
    ratios = [many_ms / few_ms for few_ms, many_ms in zip(times["few"], times["many"], strict=True)]
    return {
        **{f"classify_{name}_ms": summary(found) for name, found in times.items()},
        "classify_ratio": statistics.median(ratios),
        **{f"rate_{name}_all": found for name, found in rates.items()},
        "rate_ratio": statistics.median(rates["few"]) / statistics.median(rates["many"]),
    }


def fill(bundle_dir: Path, data: Path, count: int) -> None:
    """Bring the registry to `count` classes."""
    from model.bundle import Bundle
    from model.head import Row
    from service.registry.change import Change
    from service.registry.database import Database, database_url
    from service.registry.log import ChangeLog

    bundle = Bundle.load(bundle_dir)
    dimension = bundle.manifest.head.dimension
    log = ChangeLog(
        Database(database_url(data, None)),
        bundle_id=bundle.manifest.bundle_id,
        dimension=dimension,
        vocabulary=bundle.manifest.vocabulary.names,
    )
    random = np.random.default_rng(0)
    scale = float(np.abs(bundle.weight).mean())
    todo = count - len(bundle.manifest.classes)
    for start in range(0, todo, AT_ONCE):
        size = min(AT_ONCE, todo - start)
        weights = scale * random.standard_normal((size, dimension), dtype=np.float32)
        made = [
            Change(operation="put", class_id=f"f{start + i}", entry=entry(f"f{start + i}"), row=Row(weights[i], -50.0))
            for i in range(size)
        ]
        with log.appending() as appending:
            appending.append("batch", made)
    log.close()


def entry(class_id: str) -> Any:
    from model.classes import ClassEntry

    given = document(class_id)
    return ClassEntry(
        id=class_id,
        name=given["name"],
        kind="unseen",
        attributes=tuple(given["attributes"]),
        metadata={"source": "made"},
    )


def document(class_id: str) -> dict[str, Any]:
    values = np.random.default_rng([*class_id.encode()]).random(ATTRIBUTES)
    return {"id": class_id, "name": f"class {class_id}", "attributes": np.round(100 * values, 2).tolist()}


def classify_times(client: httpx.Client, count: int) -> list[float]:
    """Milliseconds of one image at a time."""
    image, times = photo(), []
    for _ in range(count):
        begun = time.perf_counter()
        client.post("/classify", content=image, headers={"content-type": "image/jpeg"}).raise_for_status()
        times.append(1000 * (time.perf_counter() - begun))
    return times


def rate(client: httpx.Client, seconds: float) -> float:
    """Images a second where 32 clients send one at a time, which the service gathers into its largest batches."""
    from benchmarks.serving_load import closed
    from benchmarks.serving_peers import Target, raw

    target = Target(url=f"{client.base_url}/classify", ask=raw, ready_s=0.0, pid=int(client.headers["x-process"]))
    return closed(target, [photo()], clients=32, seconds=seconds)


def photo() -> bytes:
    """A JPEG of 500 x 375."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((500, 375)).save(stream, "JPEG")
    return stream.getvalue()


def post_times(client: httpx.Client, count: int, prefix: str) -> dict[str, float]:
    times = []
    for i in range(count + 3):
        given = document(f"{prefix}{i}")
        begun = time.perf_counter()
        client.post("/classes", json=given).raise_for_status()
        times.append(1000 * (time.perf_counter() - begun))
    return summary(times[3:])


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "least": ordered[0],
        "most": ordered[-1],
        "count": len(ordered),
    }


@contextmanager
def serving(bundle: Path, data: Path, threads: int) -> Iterator[tuple[httpx.Client, float]]:
    """A client of a service, and the seconds from its start to ready."""
    arguments = ["--bundle", str(bundle), "--data-dir", str(data), "--port", "0", "--threads", str(threads)]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            assert process.stderr is not None
            url = next(found[1] for line in process.stderr if (found := _LISTENING.search(line)))
            # A full pipe would stop the service, which logs a line for each request.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            with httpx.Client(base_url=url, timeout=120) as client:
                while client.get("/readyz").status_code != 200:
                    time.sleep(0.02)
                client.headers["x-process"] = str(process.pid)
                yield client, time.perf_counter() - begun
        finally:
            process.terminate()


def cpu_s(client: httpx.Client) -> float:
    """CPU seconds of a service so far, with those of the processes it began that have ended."""
    fields = Path(f"/proc/{client.headers['x-process']}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def rest(client: httpx.Client) -> float:
    """Wait until a service does nothing any more; seconds since now, in which it prepares what a change may need."""
    begun, before = time.perf_counter(), cpu_s(client)
    while True:
        time.sleep(0.5)
        if (now := cpu_s(client)) - before < 0.05:
            return time.perf_counter() - begun
        before = now


def memory_mb(client: httpx.Client) -> float:
    status = Path(f"/proc/{client.headers['x-process']}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1000


def make_bundle(backbone: Path, out: Path, *, int8: Path | None = None) -> None:
    """A bundle with the full trunk and random other networks.

    Args:
        backbone: in float32.
        out: where it is written.
        int8: the same in int8, for a second trunk.
    """
    import torch

    from model.bundle import write_bundle
    from model.calibration import Calibration
    from model.classes import ClassEntry
    from model.head import HeadSpec
    from model.lda import LdaHead
    from model.manifest import BackboneInfo
    from model.photos import PhotoPrior
    from model.vocabulary import Vocabulary
    from training.exporting.graphs import SynthesizerGraph, TrunkTail, synthesizer_graph, trunk_graph
    from training.features.backbone import load_backbone
    from training.features.scaler import RangeScaler
    from training.networks.d3gzsl import Embedding, Teacher
    from training.networks.generator import Generator

    torch.manual_seed(0)
    source = load_backbone(backbone)
    width = source.feature_dim
    random = np.random.default_rng(0)
    entries = tuple(
        ClassEntry(
            id=f"c{i:02}",
            name=f"class {i}",
            kind="seen" if i < SEEN else "unseen",
            attributes=tuple(document(f"c{i:02}")["attributes"]),
        )
        for i in range(CLASSES)
    )
    vocabulary = Vocabulary.from_classes(
        [f"a{i}" for i in range(ATTRIBUTES)], [e.attributes for e in entries], offset=0.0, scale=1.0, unit_length=True
    )
    embedding = Embedding(feature_dim=width, dim=width, init="identity")
    teacher = Teacher(feature_dim=width, dim=width, seen_classes=SEEN, init="identity")
    generator = Generator(
        noise_dim=ATTRIBUTES, attribute_dim=ATTRIBUTES, feature_dim=width, hidden=HIDDEN, anchors=SEEN
    )
    centre = np.full(width, 0.1, dtype=np.float32)
    scaler = RangeScaler(minimum=np.zeros(width, dtype=np.float32), range=np.ones(width, dtype=np.float32))
    tail = TrunkTail(scaler=scaler, embedding=embedding, teacher=teacher, centre=centre)
    synthesizer = SynthesizerGraph(generator=generator, embedding=embedding, centre=centre)
    head = LdaHead(np.eye(width))
    weight, bias = head.rows(random.standard_normal((CLASSES, width)).astype(np.float32))
    write_bundle(
        out,
        trunk=trunk_graph(backbone, tail, feature_dim=width, side=source.spec.size),
        trunk_int8=trunk_graph(int8, tail, feature_dim=width, side=source.spec.size) if int8 else None,
        synthesizer=synthesizer_graph(synthesizer, noise_dim=ATTRIBUTES, attribute_dim=ATTRIBUTES),
        preprocess=source.spec,
        backbone=BackboneInfo(name=backbone.name, fingerprint=source.fingerprint, feature_dim=width),
        vocabulary=vocabulary,
        classes=entries,
        head_spec=HeadSpec(
            kind="lda",
            dimension=width,
            samples=SAMPLES,
            noise_dimension=ATTRIBUTES,
            shrinkage=0.5,
            photos=PhotoPrior(described=4.0, undescribed=2.0, fade=4.0),
        ),
        head=head,
        weight=weight,
        bias=bias,
        novelty_reference=np.linspace(-1, 0, 11, dtype=np.float32),
        calibration=Calibration(seen_penalty=0.5, temperature=1.0),
        metrics={},
        training={},
    )


def machine(threads: int) -> dict[str, Any]:
    about = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in about if "model name" in line), "")
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%d %H:%M"),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--posts", type=int, default=200)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0, help="Of a measurement of images a second.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1000, help="Classes in a batch.")
    parser.add_argument("--rounds", type=int, default=10, help="Batches, each after a bare loop over as many classes.")
    parser.add_argument("--starts", type=int, default=3, help="Starts with many classes.")
    parser.add_argument("--folder", type=Path, help="Keeps bundle and registry; 1.2 GB for 100,000 classes.")
    parser.add_argument(
        "--parts", nargs="+", default=["classify", "batch"], help="What is measured; added to what --out has already."
    )
    parser.add_argument("--prepare", action="store_true", help="Only make what --folder keeps.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
