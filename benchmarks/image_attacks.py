"""What a service does to others while one client sends images that cost much: their time, its memory, its end.

    python benchmarks/image_attacks.py --out benchmarks/results/DATE-image-attacks.json

Each case has a service of its own on the demo bundle. Another client asks about a small image all the while.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.faults.watching import family, resident_mb
from service.settings import EMBEDDED_BUNDLE
from tests.service.processes import Server, serving

SMALL = (EMBEDDED_BUNDLE / "examples" / "red-checked-circle.jpg").read_bytes()
Body = tuple[bytes, str]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def as_json(images: list[bytes]) -> Body:
    document = {"images": [{"data": base64.b64encode(image).decode()} for image in images]}
    return json.dumps(document).encode(), "application/json"


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG of a million pixels whose last scan comes again and again."""
    data = encoded(Image.new("L", (1000, 1000), 128), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def unlike(data: bytes, i: int) -> bytes:
    """A PNG with a text of its own."""
    text = b"tEXt" + b"i\0" + str(i).encode()
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return data[:-12] + chunk + data[-12:]


def photo(seed: int) -> bytes:
    """12 million pixels, 4 MB."""
    y, x = np.mgrid[:3000, :4000]
    noise = np.random.default_rng(seed).normal(0, 12, (3000, 4000, 1))
    colours = np.stack([x * 255 / 4000, y * 255 / 3000, (x + y) % 256], axis=-1)
    return encoded(Image.fromarray(np.clip(colours + noise, 0, 255).astype(np.uint8)), "JPEG", quality=85)


def cases() -> dict[str, list[Body]]:
    """The requests of each attack, sent at the same time."""
    grey = encoded(Image.new("L", (7000, 7000), 100), "PNG")
    webp = encoded(Image.new("RGB", (7070, 7070), (9, 9, 9)), "WEBP", lossless=True)
    sixteen = encoded(Image.new("I;16", (7070, 7070), 100), "PNG")
    return {
        "16 ordinary photos": [as_json([photo(i) for i in range(16)])],
        "64 copies of a PNG of 7,000 x 7,000": [as_json([grey] * 64)],
        "64 such PNGs, no two alike": [as_json([unlike(grey, i) for i in range(64)])],
        "2 JPEGs of 20,000 scans": [(scan_bomb(20_000), "image/jpeg")] * 2,
        "4 JPEGs of nearly 100 scans": [(scan_bomb(90), "image/jpeg")] * 4,
        "4 WebPs of 2 KB": [(webp, "image/webp")] * 4,
        "4 PNGs of 16 bits": [(sixteen, "image/png")] * 4,
    }


def held_by(pid: int) -> float:
    """MB of a process and its descendants; pages that they share count several times."""
    return sum(map(resident_mb, family(pid)))


class Other(threading.Thread):
    """Another client, by its address; it asks about a small image again and again."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._stop_it = url, threading.Event()
        self.seconds: list[float] = []
        self.failed = 0

    def run(self) -> None:
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=60) as client:
            while True:  # an attack may be refused before this thread comes to its first request
                began = time.perf_counter()
                self.failed += not self._answered(client)
                self.seconds.append(time.perf_counter() - began)
                if self._stop_it.wait(0.03):
                    return

    def _answered(self, client: httpx.Client) -> bool:
        with suppress(httpx.TransportError):
            return client.post(
                f"{self._url}/classify", content=SMALL, headers={"content-type": "image/jpeg"}
            ).is_success
        return False

    def end(self) -> dict[str, float]:
        self._stop_it.set()
        self.join()
        ordered = sorted(self.seconds)
        return {
            "requests": len(ordered),
            "failed": self.failed,
            "median_ms": round(1000 * statistics.median(ordered), 1),
            "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
        }


def send(url: str, body: Body) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        answer = httpx.post(f"{url}/classify", content=body[0], headers={"content-type": body[1]}, timeout=120)
    except httpx.TransportError as error:
        return {"error": repr(error)}
    results = answer.json().get("results", [])
    answered = sum("error" not in result for result in results)
    return {"status": answer.status_code, "answered": answered, "seconds": round(time.perf_counter() - began, 2)}


def attack(server: Server, bodies: list[Body]) -> dict[str, Any]:
    pid, url = server.process.pid, server.url
    for _ in range(10):
        send(url, (SMALL, "image/jpeg"))
    base = peak = held_by(pid)
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, held_by(pid))

    threading.Thread(target=watch, daemon=True).start()
    usual = Other(url)
    usual.start()
    time.sleep(5)
    without, other = usual.end(), Other(url)
    other.start()
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: send(url, body), bodies))
    during = other.end()
    over.set()
    time.sleep(12)
    afterwards = held_by(pid)
    pool = ThreadPoolExecutor(len(bodies))
    again = [pool.submit(send, url, body) for body in bodies]
    time.sleep(1)
    began = time.perf_counter()
    server.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(120)
    end = time.perf_counter() - began
    for future in again:
        future.result()
    return {
        "answers": answers,
        "usual": without,
        "during": during,
        "resident_mb": {
            "before": round(base),
            "peak_rise": round(peak - base),
            "rise_12_s_later": round(afterwards - base),
        },
        "seconds_to_end_on_sigterm": round(end, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help="a part of a case's name")
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    for name, bodies in cases().items():
        if arguments.only is None or arguments.only in name:
            with tempfile.TemporaryDirectory() as folder, serving(None, Path(folder)) as server:
                found[name] = {**attack(server, bodies), "load": round(os.getloadavg()[0], 1)}
            print(name, json.dumps(found[name]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
