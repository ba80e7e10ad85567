"""The service on a GPU: answers against the CPU's, the session, decoding, the loop without a service, and HTTP.

    python benchmarks/serving_gpu.py --work FOLDER --out benchmarks/results/DATE-serving-gpu [--provider cuda]

The network is a ResNet-101 at 224 with random weights, as in benchmarks/serving.py; images are JPEGs of 500 x 375. The
loop without a service decodes in as many threads as the service has, and runs the next batch while the images behind
it are decoded. Clients are processes on the same machine, which take their share of its CPUs. OUT.json is written
after every part, and OUT.md from it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.registry import machine, make_bundle  # noqa: E402
from benchmarks.rows import command  # noqa: E402
from benchmarks.serving import photos, resnet  # noqa: E402
from benchmarks.serving_load import Stream, exchange, open_loop, percentile, request_bytes  # noqa: E402
from benchmarks.serving_peers import Target, ours, raw  # noqa: E402
from model.bundle import Bundle  # noqa: E402
from model.preprocess import preprocess  # noqa: E402
from service.inference.engine import OnnxEngine  # noqa: E402
from service.inference.sessions import SessionConfig, open_session  # noqa: E402

Results = dict[str, Any]
SIZES = (1, 8, 16, 32, 64)


class Bench:
    """The bundle, its images and the engines on both devices.

    Args:
        arguments: of the command.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        work: Path = arguments.work.absolute()
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.path = work, work / "bundle-resnet101"
        if not self.path.exists():
            make_bundle(resnet(work)[0], self.path)
        self.bundle = Bundle.load(self.path)
        there = arguments.out.with_suffix(".json")
        self.results: Results = json.loads(there.read_text()) if there.exists() else {}
        self.spec = self.bundle.manifest.preprocess
        self.images = photos(64)
        self.inputs = np.stack([preprocess(data, self.spec) for data in self.images])
        self.engine = self._engine(arguments.provider)

    def _engine(self, provider: Any) -> OnnxEngine:
        arguments = self.arguments
        return OnnxEngine(
            self.bundle,
            threads=arguments.threads,
            provider=provider,
            batch_size=arguments.batch,
            cache_dir=self.work / "engines",
        )

    def on_cpu(self) -> OnnxEngine:
        return self._engine("cpu")

    def keep(self, name: str, found: Results) -> None:
        """Put what a part has found so far into the files, since the time on a GPU may end before the part does."""
        self.results[name] = found
        out: Path = self.arguments.out
        out.with_suffix(".json").write_text(json.dumps(self.results, indent=2) + "\n")
        out.with_suffix(".md").write_text(table(self.results))

    def serving(self, workers: int) -> Any:
        """Our service on the GPU; later flags win."""
        flags = ("--provider", self.arguments.provider, "--workers", str(workers), "--queue-size", "4096")
        return ours(self.path, self.work, threads=self.arguments.threads, batch=self.arguments.batch, flags=flags)


def equal(bench: Bench) -> Results:
    """Embeddings and teacher's scores against the CPU's, for the same network inputs."""
    gpu, cpu = bench.engine.embed(bench.inputs), bench.on_cpu().embed(bench.inputs)
    apart = np.abs(gpu.embedding - cpu.embedding).max(axis=1) / np.abs(cpu.embedding).max(axis=1)
    cosine = (gpu.embedding * cpu.embedding).sum(1) / np.sqrt((gpu.embedding**2).sum(1) * (cpu.embedding**2).sum(1))
    return {
        "images": len(bench.inputs),
        "largest_difference_of_an_embedding_relative_to_its_largest_number": float(apart.max()),
        "smallest_cosine": float(cosine.min()),
        "largest_difference_of_a_teacher_score": float(np.abs(gpu.teacher_score - cpu.teacher_score).max()),
    }


def session(bench: Bench) -> Results:
    """Images a second of the engine, copies of inputs and outputs included, by batch."""
    found = {}
    for size in (n for n in SIZES if n <= bench.arguments.batch):
        times = []
        for _ in range(60):
            began = time.perf_counter()
            bench.engine.embed(bench.inputs[:size])
            times.append(time.perf_counter() - began)
        found[str(size)] = size / statistics.median(times[10:])
    return {"images_per_s": found, "ms": {size: 1000 * int(size) / rate for size, rate in found.items()}}


def resident(bench: Bench) -> Results:
    """The same with inputs that already lie on the GPU: what copies from the host cost."""
    import onnxruntime as ort

    runtime = SessionConfig(threads=2, provider=bench.arguments.provider, batch_size=bench.arguments.batch)
    opened = open_session(bench.bundle.trunk, runtime, row={"image": bench.inputs.shape[1:]})
    found = {}
    for size in (n for n in SIZES if n <= bench.arguments.batch):
        binding = opened.io_binding()
        binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(bench.inputs[:size], "cuda", 0))
        for name in ("embedding", "teacher_score"):
            binding.bind_output(name, "cuda", 0)
        times = []
        for _ in range(60):
            began = time.perf_counter()
            opened.run_with_iobinding(binding)
            binding.synchronize_outputs()
            times.append(time.perf_counter() - began)
        found[str(size)] = size / statistics.median(times[10:])
    return {"images_per_s": found}


def decoding(bench: Bench) -> Results:
    """Images a second that threads decode, resize and normalise."""
    found = {}
    for threads in sorted({1, 2, 4, 8, bench.arguments.threads}):
        if threads <= bench.arguments.threads:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda data: preprocess(data, bench.spec), bench.images))
                began, done = time.perf_counter(), 0
                while time.perf_counter() - began < bench.arguments.seconds / 4:
                    list(pool.map(lambda data: preprocess(data, bench.spec), bench.images))
                    done += len(bench.images)
                found[str(threads)] = done / (time.perf_counter() - began)
    return {"images_per_s_by_threads": found}


def loop(bench: Bench) -> Results:
    """Images a second of the loop without a service: one batch runs while the next are decoded."""
    size, ahead = bench.arguments.batch, 3
    done = 0
    with ThreadPoolExecutor(bench.arguments.threads) as pool:

        def begin() -> list[Future[Any]]:
            chosen = (bench.images * (1 + size // len(bench.images)))[:size]
            return [pool.submit(preprocess, data, bench.spec) for data in chosen]

        waiting = [begin() for _ in range(ahead)]
        began = time.perf_counter()
        while time.perf_counter() - began < bench.arguments.seconds:
            images = np.stack([future.result() for future in waiting.pop(0)])
            waiting.append(begin())
            bench.engine.embed(images)
            done += size
        passed = time.perf_counter() - began
        for futures in waiting:
            for future in futures:
                future.cancel()
    return {"images_per_s": done / passed}


def form(images: Sequence[bytes]) -> Any:
    """Arguments of a request with several images."""
    return lambda _: {"files": [("images", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(images)]}


def http(bench: Bench) -> Results:
    """Images a second through HTTP, by workers and images in a request; then half of the best with one image each."""
    found: Results = {"rounds": []}
    for workers in bench.arguments.workers:
        with bench.serving(workers) as target:
            for together in (1, 16):
                ask = raw if together == 1 else form(bench.images[:together])
                asked = Target(url=target.url, ask=ask, ready_s=target.ready_s, pid=target.pid)
                rate = together * busy(bench, asked, together)
                found["rounds"].append(
                    {
                        "workers": workers,
                        "images_per_request": together,
                        "images_per_s": rate,
                        "ready_s": target.ready_s,
                    }
                )
                bench.keep("http", found)
            if workers == bench.arguments.workers[-1]:
                single = found["rounds"][-2]["images_per_s"]
                found["half_load"] = half(bench, target, 0.5 * single)
    return found


def half(bench: Bench, target: Target, rate: float) -> Results:
    """Seconds of answers at a given rate of arrivals; one client process."""
    rate = min(rate, 1000.0)  # what one client process keeps up with
    chance = np.random.default_rng(0)
    times = np.cumsum(chance.exponential(1 / rate, int(rate * bench.arguments.seconds)))
    done = open_loop(target, bench.images, list(times))
    took = [one.seconds for one in done]
    return {
        "requests_per_s": rate,
        "failed": sum(one.status != 200 for one in done),
        "p50_ms": 1000 * percentile(took, 0.5),
        "p99_ms": 1000 * percentile(took, 0.99),
    }


def busy(bench: Bench, target: Target, together: int) -> float:
    """Requests a second that client processes get answered, each with several connections of its own."""
    clients = bench.arguments.clients
    connections = max(1, 4 * bench.arguments.batch // together // clients)
    requests = [request_bytes(target, data) for data in (bench.images if together == 1 else [b""])]
    host, port = httpx.URL(target.url).host, httpx.URL(target.url).port
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(clients, mp_context=context) as pool:
        counts = pool.map(
            _client, *zip(*[(host, port, requests, connections, bench.arguments.seconds)] * clients, strict=True)
        )
        return sum(counts) / bench.arguments.seconds


def _client(host: str, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> int:
    return asyncio.run(_asking(host, port, requests, connections, seconds))


async def _asking(host: str, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> int:
    """Answers within the time, after a second and a half of warming up."""
    done, warm, over = 0, time.perf_counter() + 1.5, time.perf_counter() + 1.5 + seconds

    async def ask(first: int) -> None:
        nonlocal done
        stream: Stream = await asyncio.open_connection(host, port)
        turn = first
        while time.perf_counter() < over:
            status, body = await exchange(stream, requests[turn % len(requests)])
            turn += 1
            if status == 503:  # every client waits for the first image of a cold process
                await asyncio.sleep(0.05)
                continue
            if status != 200:
                raise RuntimeError(f"{status}: {body[:300]!r}")
            done += warm <= time.perf_counter() < over

    await asyncio.gather(*(ask(i) for i in range(connections)))
    return done


def half_precision(bench: Bench) -> Results:
    """The session in float16, with float32 going in and out: speed, and how far its embeddings lie from float32's."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    file = bench.work / "trunk-fp16.onnx"
    onnx.save(convert_float_to_float16(onnx.load(bench.bundle.trunk), keep_io_types=True), file)
    runtime = SessionConfig(threads=2, provider=bench.arguments.provider, batch_size=bench.arguments.batch)
    opened = open_session(file, runtime, row={"image": bench.inputs.shape[1:]})
    z = opened.run(["embedding"], {"image": bench.inputs})[0]
    full = bench.engine.embed(bench.inputs).embedding
    apart = np.abs(z - full).max(axis=1) / np.abs(full).max(axis=1)
    found = {}
    for size in (n for n in SIZES if n <= bench.arguments.batch):
        times = []
        for _ in range(60):
            began = time.perf_counter()
            opened.run(["embedding", "teacher_score"], {"image": bench.inputs[:size]})
            times.append(time.perf_counter() - began)
        found[str(size)] = size / statistics.median(times[10:])
    return {"images_per_s": found, "largest_relative_difference": float(apart.max())}


PARTS = {
    "equal": equal,
    "session": session,
    "resident": resident,
    "half_precision": half_precision,
    "decoding": decoding,
    "loop": loop,
    "http": http,
}


def table(results: Results) -> str:
    """Every part as a list of its numbers."""
    lines = ["# Serving on a GPU", "", f"    {results['command']}", ""]
    lines += [f"{results['device']}; {results['machine']}; ONNX Runtime {results['onnxruntime']}.", ""]
    for name, part in PARTS.items():
        if name in results:
            lines += [f"## {name}", "", (part.__doc__ or "").strip().splitlines()[0], "", "```json"]
            lines += [json.dumps(results[name], indent=2), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    import onnxruntime as ort

    arguments = parse()
    began = time.perf_counter()
    bench = Bench(arguments)
    bench.results |= {
        "command": command("serving_gpu.py"),
        "device": arguments.device_name,
        "machine": machine(arguments.threads),
        "onnxruntime": ort.__version__,
    }
    for name in arguments.part or PARTS:
        with contextlib.suppress(KeyboardInterrupt):
            bench.keep(name, PARTS[name](bench))
        print(f"{time.perf_counter() - began:.0f} s {name}: {json.dumps(bench.results.get(name))}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt"), default="cuda")
    parser.add_argument("--part", choices=list(PARTS), action="append", help="Only this; may be repeated.")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 4))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--clients", type=int, default=4, help="Processes.")
    parser.add_argument("--seconds", type=float, default=8.0, help="Of each measurement.")
    parser.add_argument("--device-name", default="a GPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
