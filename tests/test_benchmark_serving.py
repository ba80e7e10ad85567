"""What benchmarks/serving.py measures with: the perfect queue, and the clients against a real server."""

from __future__ import annotations

import itertools
import json
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import serving_bulk
from benchmarks.serving import PARTS, Bench, photos
from benchmarks.serving_load import Done, arrivals, batch_times, closed, one_by_one, open_loop, percentile, simulated
from benchmarks.serving_peers import Target, ours, raw
from benchmarks.serving_table import draw, table
from tests.service.tiny import tiny_bundle, trunk


def test_a_perfect_queue_alone_takes_what_decoding_and_model_take() -> None:
    assert simulated([0.0, 10.0], decode_s=0.5, batch_s=[1.0, 1.2]) == [1.5, 1.5]


def test_a_perfect_queue_takes_what_waits_up_to_the_batch_size() -> None:
    # The first goes alone; those of 0.1 to 0.3 wait for it; two of them go together, then the last.
    took = simulated([0.0, 0.1, 0.2, 0.3], decode_s=0.0, batch_s=[1.0, 1.5])
    assert took == pytest.approx([1.0, 2.5 - 0.1, 2.5 - 0.2, 3.5 - 0.3])


def test_arrivals_come_at_the_rate() -> None:
    times = arrivals(50.0, 200.0, seed=1)
    assert times == sorted(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.stdev(gaps) == pytest.approx(0.02, rel=0.1)


def test_times_of_batches_are_read_from_the_answers() -> None:
    def answer(seconds: float, status: int = 200) -> Done:
        return Done(0.0, 1.0, status, json.dumps({"timing_ms": {"inference": 1000 * seconds}}).encode())

    done = [answer(0.1), answer(0.12), answer(0.14), *[answer(0.31)] * 3, *[answer(0.33)] * 3, answer(9.0, 503)]
    assert batch_times(done, 4) == pytest.approx([0.12, 0.22, 0.32, 0.42])


def test_percentiles() -> None:
    assert [percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 3.0, 4.0]


@contextmanager
def answering(statuses: list[int]) -> Iterator[Target]:
    """A server that answers 200, and 503 to every third request that has a deadline."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            statuses.append(503 if len(statuses) % 3 == 2 and self.headers["d3gzsl-timeout-ms"] == "700" else 200)
            self.send_response(statuses[-1])
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Target(url=f"http://127.0.0.1:{server.server_port}/classify", ask=raw, ready_s=0.0, pid=0)
        finally:
            server.shutdown()
            thread.join(10)


def test_the_open_loop_sends_every_request_and_reports_its_status() -> None:
    statuses: list[int] = []
    with answering(statuses) as target:
        done = open_loop(target, [b"one", b"other"], [0.0, 0.01, 0.02, 0.03, 0.04, 0.05], timeout_ms=700)
    assert [one.sent for one in done] == [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]
    assert sorted(one.status for one in done) == [200, 200, 200, 200, 503, 503]
    assert all(one.seconds > 0 for one in done)


def test_closed_and_single_clients_measure() -> None:
    with answering([]) as target:
        assert closed(target, [b"x"], clients=3, seconds=0.1) > 0
        assert len(one_by_one(target, [b"x", b"y"], 5)) == 5


def test_the_table_names_every_target_and_the_drawing_everybody() -> None:
    machine = {"cpu": "a CPU", "cpus": 2, "threads": 2, "load": 0.25, "at": "2026-11-25 10:00"}
    at = {"machine": machine, "batch": 16, "command": "the command"}
    results = {
        "throughput": {
            **at,
            "images_per_s": {"bare": 10.0, "ours": 9.6, "default": 19.2, "litserve": 4.8},
            "ratio_to_bare": 0.96,
            "default_to_best_peer": 4.0,
            "within": {
                "throughput >= 0.95 of the bare loop": True,
                "faster than litserve": True,
                "a default export >= 1.5 times the best peer": True,
            },
        },
        "start": {
            **at,
            "ours": [{"ready_s": 2.5, "mb": 700.0}],
            "ready_s_over": 2.25,
            "mb_over": 120.0,
            "within": {"ready <= 2 s over a bare process": False, "memory <= 150 MB over a bare process": True},
        },
        "int8": {**at, "images_per_s": {"fp32": 10.0, "int8": 20.0}, "ratio": 2.0, "within": {"int8 >= 1.5": True}},
        "bulk": {
            **at,
            "images_per_s": {"bare fp32": 10.0, "local fp32": 9.7},
            "ratio": 0.97,
            "within": {"a folder >= 0.95 of the bare loop": True},
        },
        "ray": {
            **at,
            "images_per_s": {"1 of Ray": 5.0, "2 of Ray": 9.5},
            "workers_2_to_1": 1.9,
            "within": {"2 workers of Ray >= 1.8 times 1": True},
        },
    }
    lines = table(results).splitlines()
    assert lines.count("    the command") == 1
    assert "a CPU, 2 cores." in lines
    assert "| throughput | throughput >= 0.95 of the bare loop | yes | 0.960 |" in lines
    assert "| throughput | faster than litserve | yes | 9.60 against 4.80 images/s, 2.00 times |" in lines
    assert "| throughput | a default export >= 1.5 times the best peer | yes | 19.20 images/s, 4.00 times |" in lines
    assert "| bulk | a folder >= 0.95 of the bare loop | yes | 0.97 |" in lines
    assert "| ray | 2 workers of Ray >= 1.8 times 1 | yes | 1.90 |" in lines
    assert "| start | ready <= 2 s over a bare process | **no** | +2.25 s |" in lines
    assert "| start | memory <= 150 MB over a bare process | yes | +120.00 MB |" in lines
    assert "- ours 1: ready_s 2.5, mb 700" in lines
    drawing = draw(results)
    assert all(f">{name}</text>" in drawing for name in ("bare loop", "d3gzsl", "LitServe", "float32", "int8"))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["throughput", "single", "overload", "start", "spinning", "bulk"])
def test_a_part_runs_on_its_own(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_bulk, "PART", 20)
    monkeypatch.setattr(serving_bulk, "MANY", 30)  # so that the larger folder takes longer by more than chance
    bundle = tiny_bundle(tmp_path / "bundle")
    tiny_bundle(tmp_path / "bundle-default", trunk_int8=trunk())
    bench = Bench(
        bundle=bundle,
        backbone=Path(),
        work=tmp_path,
        images=photos(2),
        threads=1,
        batch=2,
        seconds=0.3,
        overload_seconds=1.0,
        rounds=1,
        weights=None,
        peers=(),
        uv="uv",
    )
    found = PARTS[part](bench)
    assert part == "spinning" or found["within"]
    with ours(bundle, tmp_path, threads=1, batch=2) as target:
        assert target.ready_s > 0
