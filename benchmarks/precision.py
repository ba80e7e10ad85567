"""What a trunk in int8 costs and gains: U, S and H of known and registered classes, and images a second.

    python benchmarks/precision.py --out benchmarks/results/DATE-precision [RUN BUNDLE]... [--speed BACKBONE]

RUN is a run on photos, and BUNDLE was made of it by `d3gzsl-train export` and has both trunks. Unseen classes are
registered by their description, or by it with photos of theirs, which are then not tested on; these are embedded by
either trunk, and so are the test photos. BACKBONE is timed in float32 and in int8 in turns, by its session alone, on
all cores.

N: photos, Z: embedding, C: classes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parents[1]))

from model.bundle import Bundle, Precision, sha256_of
from model.head import Float32, logits
from model.outside.threads import available_cpus
from service.inference.class_rows import row_with_photos
from service.inference.engine import OnnxEngine
from service.inference.sessions import SessionConfig, open_session
from training.datasets.opening import reopen
from training.exporting.int8 import quantise
from training.exporting.run_images import RunImages, even_rows
from training.features.backbone import load_backbone
from training.metrics import GzslScores, gzsl_scores
from training.runs.contents import Trained

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
PHOTOS = (0, 1, 5)
DRAWS = 20
BATCHES = (1, 16)
Results = dict[str, Any]


class Measured:
    """The test photos of a run, embedded by both trunks of its bundle.

    Args:
        run: its directory.
        path: of the bundle.
        most: test photos, spread over the classes.
    """

    def __init__(self, run: Path, path: Path, *, most: int) -> None:
        trained = Trained.load(run)
        data = reopen(trained.data)
        self.bundle = Bundle.load(path)
        self._engine = OnnxEngine(self.bundle, threads=available_cpus(), precision="fp32")
        place = {entry.id: i for i, entry in enumerate(self.bundle.manifest.classes)}
        rows = data.test[sorted(even_rows(data.labels[data.test].tolist(), most))]
        self.labels = np.array([place[data.classes[label].id] for label in data.labels[rows].tolist()])
        self.seen = np.array([entry.kind == "seen" for entry in self.bundle.manifest.classes])
        engines = {"fp32": self._engine, "int8": OnnxEngine(self.bundle, threads=available_cpus(), precision="int8")}
        found: dict[str, list[Float32]] = {name: [] for name in engines}
        for pixels in RunImages.of(trained).pixels(rows.tolist()):
            for name, engine in engines.items():
                found[name].append(engine.embed(pixels).embedding)
        self.embeddings = {name: np.concatenate(parts) for name, parts in found.items()}
        self._described = {i: self._mean(i) for i in np.flatnonzero(~self.seen).tolist()}

    def _mean(self, index: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Mean synthesised embedding of a described class, float64 [Z]."""
        manifest = self.bundle.manifest
        made = manifest.class_embeddings(self._engine.synthesize, manifest.classes[index])
        mean: np.ndarray[Any, np.dtype[np.float64]] = made.mean(axis=0, dtype=np.float64)
        return mean

    def scores(self, evidence: Precision, asked: Precision, photos: int, draw: int) -> GzslScores:
        """Unseen classes registered with so many photos embedded by one trunk, test photos embedded by another."""
        weight, bias = self.bundle.weight.copy(), self.bundle.bias.copy()
        share, tested = self.seen.astype(np.float64), np.ones(len(self.labels), dtype=bool)
        random, prior = np.random.default_rng(draw), self.bundle.manifest.head.photos
        if photos and prior is not None:
            for index, described in self._described.items():
                own = random.choice(np.flatnonzero(self.labels == index), photos, replace=False)
                row = row_with_photos(self.bundle, described, self.embeddings[evidence][np.sort(own)])
                weight[index], bias[index], share[index] = row.weight, row.bias, prior.seen_share(photos)
                tested[own] = False
        found = self.bundle.manifest.calibration.scores(logits(self.embeddings[asked][tested], weight, bias), share)
        return gzsl_scores(found, self.labels[tested], self.seen)


def accuracy(run: Path, path: Path, *, most: int) -> Results:
    """Every pair of trunks for each number of photos, means over draws, in percent."""
    measured = Measured(run, path, most=most)
    rows = []
    for photos in PHOTOS:
        for evidence in PRECISIONS if photos else PRECISIONS[:1]:
            for asked in PRECISIONS:
                found = [measured.scores(evidence, asked, photos, draw) for draw in range(DRAWS if photos else 1)]
                means = {name: 100 * float(np.mean([getattr(one, name) for one in found])) for name in "USH"}
                rows.append({"photos": photos, "evidence": evidence if photos else None, "asked": asked, **means})
    exact, rounded = measured.embeddings["fp32"], measured.embeddings["int8"]
    error = float(((rounded - exact) ** 2).sum() / ((exact - exact.mean(axis=0)) ** 2).sum())
    noted = measured.bundle.manifest.metrics["precision"]
    return {
        "run": run.name,
        "backbone": measured.bundle.manifest.backbone.name,
        "bundle": measured.bundle.manifest.bundle_id,
        "classes": {"seen": int(measured.seen.sum()), "unseen": int((~measured.seen).sum())},
        "test_photos": len(measured.labels),
        "draws": DRAWS,
        "error_of_embeddings": error,
        "export": {name: noted[name] for name in ("ranges", "convolutions_in_float32", "lost_points_of_H", "images")},
        "rows": rows,
    }


def speed(backbone: Path, work: Path, *, rounds: int) -> list[Results]:
    """Images a second of a backbone's session in float32 and in int8, in turns: medians."""
    source = load_backbone(backbone)
    side, name = source.spec.size, source.input
    images = np.random.default_rng(0).standard_normal((max(BATCHES), 3, side, side)).astype(np.float32)
    files = {"fp32": backbone, "int8": quantise(backbone, lambda: [images[:4]], work / "int8.onnx")}
    config = SessionConfig(threads=available_cpus())
    sessions = {which: open_session(file, config, row={name: (3, side, side)}) for which, file in files.items()}
    rows = []
    for batch in BATCHES:
        runs: dict[str, Callable[[], Any]] = {
            which: lambda session=session, some=images[:batch]: session.run(None, {name: some})
            for which, session in sessions.items()
        }
        found: dict[str, list[float]] = {which: [] for which in runs}
        for number in range(rounds + 1):
            for which, run in runs.items():
                seconds = _seconds(run)
                if number:  # the first one pays for memory
                    found[which].append(batch / seconds)
        rates = {which: float(np.median(values)) for which, values in found.items()}
        rows.append({"batch": batch, "rounds": rounds, **rates, "ratio": rates["int8"] / rates["fp32"]})
    return rows


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _flags() -> list[str]:
    """Of the CPU, those by which ONNX Runtime chooses its kernels for int8."""
    told = Path("/proc/cpuinfo")
    words = set(told.read_text().split()) if told.exists() else set()
    return sorted(words & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


def table(results: Results) -> str:
    """The results as Markdown."""
    machine = results["machine"]
    lines = [
        "# A trunk in int8 against float32",
        "",
        "Made by",
        "",
        *(f"    {command}" for command in results["commands"]),
        "",
    ]
    lines += [
        f"{machine['processor']}, {machine['cpus']} CPUs ({', '.join(machine['flags'])}), ONNX Runtime "
        f"{machine['onnxruntime']}.",
        "",
    ]
    for one in results["accuracy"]:
        lines += [
            f"## {one['run']}: {one['backbone']}",
            "",
            f"{one['classes']['seen']} seen and {one['classes']['unseen']} unseen classes, {one['test_photos']} test "
            f"photos. {one['export']['lost_points_of_H']:.2f} points of H lost on {one['export']['images']} photos of "
            f"validation; ranges {one['export']['ranges']}, the first {one['export']['convolutions_in_float32']} "
            "convolutions in float32. "
            f"Squared error of embeddings {100 * one['error_of_embeddings']:.1f} % of their variance. With photos the "
            f"means over {one['draws']} draws.",
            "",
            "| photos of an unseen class | embedded in | test photos in | U | S | H |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['photos']} | {row['evidence'] or '-'} | {row['asked']} | {row['U']:.2f} | {row['S']:.2f} | "
            f"{row['H']:.2f} |"
            for row in one["rows"]
        ]
        lines.append("")
    if results["speed"]:
        lines += [
            f"## Speed of {results['speed_of']}",
            "",
            "| images at once | float32, images/s | int8, images/s | ratio |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['batch']} | {row['fp32']:.1f} | {row['int8']:.1f} | {row['ratio']:.2f} |"
            for row in results["speed"]
        ]
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, beside what the file holds of other parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", type=Path, metavar="RUN BUNDLE")
    parser.add_argument("--speed", type=Path, metavar="BACKBONE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", type=int, default=2000, help="most test photos of a run")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    if len(asked.pairs) % 2:
        parser.error("each RUN needs its BUNDLE")
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    file = asked.out.with_suffix(".json")
    results: Results = json.loads(file.read_text()) if file.exists() else {"commands": [], "accuracy": [], "speed": []}
    results["commands"].append(
        shlex.join(["python", "benchmarks/precision.py", *(sys.argv[1:] if arguments is None else arguments)])
    )
    results["machine"] = {
        "processor": f"{cpu} ({platform.machine()})",
        "cpus": available_cpus(),
        "flags": _flags(),
        "load": os.getloadavg()[0],
        "onnxruntime": ort.__version__,
    }
    for run, path in zip(asked.pairs[::2], asked.pairs[1::2], strict=True):
        others = [one for one in results["accuracy"] if one["run"] != run.name]
        results["accuracy"] = [*others, accuracy(run, path, most=asked.photos)]
        print(json.dumps(results["accuracy"][-1], indent=1), flush=True)
    if asked.speed is not None:
        with tempfile.TemporaryDirectory() as work:
            results["speed"] = speed(asked.speed, Path(work), rounds=asked.rounds)
        results["speed_of"] = f"{asked.speed.name}, sha256 {sha256_of(asked.speed)[:12]}"
        print(json.dumps(results["speed"], indent=1), flush=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    asked.out.with_suffix(".md").write_text(table(results))


def _cpuinfo() -> list[str]:
    told = Path("/proc/cpuinfo")
    return told.read_text().splitlines() if told.exists() else []


if __name__ == "__main__":
    main()
