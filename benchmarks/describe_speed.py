"""How long it takes to register a class with five photos, and whether classes with photos slow down classification.

Through HTTP at a `d3gzsl serve` process, with the bundle of benchmarks/registry.py: a given backbone, 50 classes, other
networks of the default sizes with random weights, which cost what trained ones cost. The CPU time stands beside the
time on the clock, as other work on the machine hardly changes it.
"""

from __future__ import annotations

import base64
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.registry import CLASSES, SEEN, document, machine, make_bundle, serving
from benchmarks.rows import Row
from model.bundle import Bundle
from model.preprocess import preprocess
from service.inference.sessions import SessionConfig, open_session
from training.runs.contents import code_commit

PHOTOS = 5
ROUNDS, WARM_UP = 30, 3
THREADS = 2


def measure_speed(backbone: Path) -> Row:
    """Median milliseconds; every round measures each thing once, one after the other, while nothing else is asked."""
    with tempfile.TemporaryDirectory() as name:
        bundle = Path(name) / "bundle"
        make_bundle(backbone, bundle)
        loaded = Bundle.load(bundle)
        with serving(bundle, Path(name) / "data", THREADS) as (client, _), ThreadPoolExecutor(THREADS) as pool:
            bare = bare_loop(loaded, pool)
            with_photos = photos_of_all(client)
            rounds = [one_round(client, bare, number, with_photos) for number in range(ROUNDS + WARM_UP)][WARM_UP:]
    p50 = {
        what: statistics.median(found[what] for found in rounds) for what in rounds[0] if not what.startswith("cpu_")
    }
    beyond = statistics.median(found["with_photos"] - found["bare"] for found in rounds)
    before, after = p50.pop("before"), p50.pop("after")
    cpu = {what: statistics.fmean(found[f"cpu_{what}"] for found in rounds) for what in ("with_photos", "bare")}
    return {
        "machine": machine(THREADS),
        "commit": code_commit(),
        "backbone": backbone.stem,
        "dimension": loaded.manifest.head.dimension,
        "classes": CLASSES,
        "rounds": ROUNDS,
        "post_ms": {**p50, "beyond": beyond},
        "cpu_ms": {**cpu, "beyond": cpu["with_photos"] - cpu["bare"]},
        "classify_ms": {"before": before, "after": after, "ratio": after / before},
    }


def one_round(
    client: httpx.Client, bare: Callable[[list[bytes]], Any], number: int, with_photos: int
) -> dict[str, float]:
    """Milliseconds of each thing once."""
    photos = [jpeg(100 * number + place) for place in range(PHOTOS)]
    given = document(f"r{number}")
    times = {"described": timed(lambda: post(client, given))}
    used = 1000 * time.process_time()
    times["bare"] = timed(lambda: bare(photos))
    times["cpu_bare"] = 1000 * time.process_time() - used
    client.delete(f"/classes/{given['id']}").raise_for_status()
    given["examples"] = encoded(photos)
    used = cpu_ms(client)
    times["with_photos"] = timed(lambda: post(client, given))
    times["cpu_with_photos"] = cpu_ms(client) - used
    client.delete(f"/classes/{given['id']}").raise_for_status()
    for what, version in (("before", 0), ("after", with_photos)):
        client.post("/registry:rollback", json={"version": version}).raise_for_status()
        times[what] = timed(lambda: classify(client, photos[0]))
    return times


def photos_of_all(client: httpx.Client) -> int:
    """Give every unseen class photos; the registry's version then."""
    for place in range(SEEN, CLASSES):
        given = document(f"c{place}")
        given["examples"] = encoded([jpeg(10_000 + PHOTOS * place + i) for i in range(PHOTOS)])
        client.put(f"/classes/{given.pop('id')}", json=given).raise_for_status()
    return int(client.get("/registry").json()["registry_version"])


def bare_loop(bundle: Bundle, pool: ThreadPoolExecutor) -> Callable[[list[bytes]], Any]:
    """Decoding and the trunk, without a service around them."""
    spec = bundle.manifest.preprocess
    session = open_session(bundle.trunk, SessionConfig(threads=THREADS), row={"image": (3, spec.size, spec.size)})

    def run(photos: list[bytes]) -> Any:
        images = np.stack(list(pool.map(lambda data: preprocess(data, spec), photos)))
        return session.run(["embedding", "teacher_score"], {"image": images})

    return run


def post(client: httpx.Client, given: dict[str, Any]) -> None:
    client.post("/classes", json=given).raise_for_status()


def classify(client: httpx.Client, photo: bytes) -> None:
    client.post("/classify", content=photo, headers={"content-type": "image/jpeg"}).raise_for_status()


def cpu_ms(client: httpx.Client) -> float:
    """CPU time of the service so far, in ticks of the kernel: a mean over rounds is finer."""
    fields = Path(f"/proc/{client.headers['x-process']}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(run: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)


def encoded(photos: list[bytes]) -> list[dict[str, str]]:
    return [{"data": base64.b64encode(photo).decode()} for photo in photos]


def jpeg(seed: int) -> bytes:
    """A picture of 500 by 375 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((500, 375)).save(stream, "JPEG")
    return stream.getvalue()
