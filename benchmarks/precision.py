"""What a trunk in int8 costs and gains: U, S and H of known and registered classes, and images a second.

    python benchmarks/precision.py [DATA...] --out benchmarks/results/DATE-precision [--backbone FILE] [--draws 4]
        [--speed BACKBONE]

DATA is a folder of photos. A bundle is made of it by `d3gzsl-train make` with FILE and must have both trunks; then one
for each of some draws of which classes are unseen, as many as in its table. Unseen classes are registered by their
description, or by it with photos of theirs, which are then not tested on; these are embedded by either trunk, and so
are the test photos. What is made lies in --work, and what is there is taken. BACKBONE is timed in float32 and in int8
in turns, by its session alone, on all cores.

N: photos, Z: embedding, C: classes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import platform
import random
import shlex
import subprocess
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
RECIPE = "cpu-wgan"
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
        drawn, prior = np.random.default_rng(draw), self.bundle.manifest.head.photos
        if photos and prior is not None:
            for index, described in self._described.items():
                own = drawn.choice(np.flatnonzero(self.labels == index), photos, replace=False)
                row = row_with_photos(self.bundle, described, self.embeddings[evidence][np.sort(own)])
                weight[index], bias[index], share[index] = row.weight, row.bias, prior.seen_share(photos)
                tested[own] = False
        found = self.bundle.manifest.calibration.scores(logits(self.embeddings[asked][tested], weight, bias), share)
        return gzsl_scores(found, self.labels[tested], self.seen)


def made(data: Path, backbone: Path, draw: int, work: Path) -> tuple[str, Path, Path]:
    """Name, run and bundle of a folder of photos with the unseen classes of its table, or of a draw from 1."""
    name = data.name if draw == 0 else f"{data.name}, draw {draw}"
    folder, bundle = work / f"{data.name}-{draw}", work / f"{data.name}-{draw}-bundle"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images").exists():
        (folder / "images").symlink_to((data / "images").resolve())
    with (data / "classes.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    if draw:
        column = head.index("split")
        unseen = sum(row[column] == "unseen" for row in rows)
        drawn = set(random.Random(draw).sample(range(len(rows)), unseen))
        rows = [[*row[:column], "unseen" if i in drawn else "seen", *row[column + 1 :]] for i, row in enumerate(rows)]
    with (folder / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    run = bundle.with_name(f"{bundle.name}-training") / "run"
    _train("make", folder, "--backbone", backbone, "--recipe", RECIPE, "--out", bundle, "--overwrite")
    if "int8" not in Bundle.load(bundle).manifest.metrics["precision"]["shipped"]:
        _train("export", run, "--out", bundle, "--precision", "int8", "--int8-limit", 100, "--overwrite")
    return name, run, bundle


def _train(*arguments: object) -> None:
    """Run `d3gzsl-train`."""
    command = [sys.executable, "-m", "training.cli", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])


def accuracy(name: str, run: Path, path: Path, *, most: int) -> Results:
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
        "name": name,
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
    lines += _summary(results["accuracy"])
    for one in results["accuracy"]:
        lines += [
            f"## {one['name']}: {one['backbone']}",
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


def _summary(found: Sequence[Results]) -> list[str]:
    """What int8 loses of H in every bundle, and in all of a folder's."""
    lines = [
        "Points of H that test photos in int8 lose, less than 0 where they gain. Photos of a class are embedded in "
        "float32, as by the service. Where more than 0.3 are lost on validation a bundle has no int8 by default.",
        "",
        "| | on validation | " + " | ".join("described" if n == 0 else f"photos: {n}" for n in PHOTOS) + " |",
        "|---" * (2 + len(PHOTOS)) + "|",
    ]
    by_folder: dict[str, list[list[float]]] = {}
    for one in found:
        losses = [one["export"]["lost_points_of_H"], *(_lost(one["rows"], photos) for photos in PHOTOS)]
        lines.append(f"| {one['name']} | " + " | ".join(f"{loss:.2f}" for loss in losses) + " |")
        by_folder.setdefault(one["name"].split(",")[0], []).append(losses)
    for name, losses in by_folder.items():
        if len(losses) > 1:
            mean, error = np.mean(losses, axis=0), np.std(losses, axis=0, ddof=1) / np.sqrt(len(losses))
            cells = " | ".join(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True))
            lines.append(f"| {name}, mean ± standard error of {len(losses)} | {cells} |")
    return [*lines, ""]


def _lost(rows: Sequence[Results], photos: int) -> float:
    of = {row["asked"]: row["H"] for row in rows if row["photos"] == photos and row["evidence"] in (None, "fp32")}
    return float(of["fp32"] - of["int8"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, beside what the file holds of other parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path, metavar="DATA")
    parser.add_argument("--backbone", type=Path, metavar="FILE", help="of the photos, in ONNX format")
    parser.add_argument("--draws", type=int, default=0, help="of which classes are unseen, besides those of the table")
    parser.add_argument("--work", type=Path, default=Path("precision-work"), help="folder of runs and bundles")
    parser.add_argument("--speed", type=Path, metavar="BACKBONE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", type=int, default=2000, help="most test photos of a run")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    if asked.data and asked.backbone is None:
        parser.error("photos need a --backbone")
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
    for data, draw in itertools.product(asked.data, range(asked.draws + 1)):
        name, run, path = made(data, asked.backbone.resolve(), draw, asked.work.resolve())
        others = [one for one in results["accuracy"] if one["name"] != name]
        results["accuracy"] = [*others, accuracy(name, run, path, most=asked.photos)]
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
