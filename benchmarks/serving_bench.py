"""What the parts of benchmarks/serving.py share: their settings, and the loop without a service around it."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.serving_peers import ours
from model.bundle import Bundle, Precision, trunk_name
from model.preprocess import preprocess
from service.inference.sessions import SessionConfig, open_session


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every part needs.

    Attributes:
        bundle: that is served.
        backbone: in it.
        work: folder for logs, environments, registry.
        images: JPEG files.
        threads: of everybody.
        batch: largest batch of everybody.
        seconds: of each measurement.
        overload_seconds: of the overload.
        rounds: of measurements that are compared, in turns.
        weights: state dict of the network, for torch.
        peers: names of those to compare with.
        uv: the program.
    """

    bundle: Path
    backbone: Path
    work: Path
    images: list[bytes]
    threads: int
    batch: int
    seconds: float
    overload_seconds: float
    rounds: int
    weights: Path | None
    peers: tuple[str, ...]
    uv: str

    def serving(self, *flags: str) -> Any:
        """Our service."""
        return ours(self.bundle, self.work, threads=self.threads, batch=self.batch, flags=flags)


class Bare:
    """Decoding, preprocessing and the session, without a service around them."""

    def __init__(self, bench: Bench, *, spinning: bool = False, precision: Precision = "fp32") -> None:
        bundle = Bundle.load(bench.bundle)
        trunk = bundle.path / trunk_name(bundle.manifest, precision)
        self._bench, self._spec = bench, bundle.manifest.preprocess
        row = (3, self._spec.size, self._spec.size)
        if spinning:
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = bench.threads, 1
            self._session = ort.InferenceSession(str(trunk), options, providers=["CPUExecutionProvider"])
        else:
            self._session = open_session(trunk, SessionConfig(threads=bench.threads), row={"image": row})
        self.run(np.zeros((bench.batch, *row), dtype=np.float32))

    def run(self, inputs: np.ndarray) -> float:
        """Seconds of the session."""
        began = time.perf_counter()
        self._session.run(["embedding", "teacher_score"], {"image": inputs})
        return time.perf_counter() - began

    def decode(self, data: bytes) -> np.ndarray:
        return preprocess(data, self._spec)

    def rate(self, seconds: float) -> float:
        """Images per second of batch after batch: decode in all threads, then run."""
        bench, done = self._bench, 0
        with ThreadPoolExecutor(bench.threads) as pool:
            began = time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds or not done:
                chosen = [bench.images[(done + i) % len(bench.images)] for i in range(bench.batch)]
                self.run(np.stack(list(pool.map(self.decode, chosen))))
                done += bench.batch
            passed = time.perf_counter() - began
        return done / passed

    def one(self, data: bytes) -> float:
        """Seconds to decode and run one image."""
        began = time.perf_counter()
        self.run(self.decode(data)[None])
        return time.perf_counter() - began

    def decode_s(self) -> float:
        """Median seconds to decode an image."""
        times = []
        for data in self._bench.images * 2:
            began = time.perf_counter()
            self.decode(data)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def batch_s(self, repeats: int) -> list[float]:
        """Median seconds of the session for 1, 2, ... images."""
        image = self.decode(self._bench.images[0])
        return [
            statistics.median(self.run(np.stack([image] * n)) for _ in range(repeats))
            for n in range(1, self._bench.batch + 1)
        ]
