"""Photos of animals end to end: D3GZSL against ridge + LDA, and classes registered over HTTP against trained ones.

    python benchmarks/animals.py DATA BACKBONE --out benchmarks/results/DATE-animals.json [--splits 5] [--jobs 2]

DATA holds images/<class>/* and classes.csv; BACKBONE is an ONNX file with its JSON. For each split (and training seed)
of the seen classes' photos: the baseline, a run that knows all classes, and a run for which `--hold-back` classes were
taken out of classes.csv before training and registered by POST /classes afterwards. Both runs are exported, served by
the real app, and measured on every test photo through POST /classify by the same function.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import platform
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from asgi_lifespan import LifespanManager

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.ridge_lda import ridge_lda
from service.server.app import create_app
from service.service import Service
from service.settings import Settings
from training.config import TrainConfig
from training.datasets.dataset import Dataset, from_store
from training.exporting.export import export
from training.features.backbone import load_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.features.store import FeatureStore
from training.metrics import harmonic_mean, per_class_accuracy
from training.recipes import configured, load_recipe
from training.runs.contents import Trained, code_commit
from training.runs.fit import fit

REQUEST = 16  # photos per request


def main() -> None:
    arguments = parse()
    held_back = tuple(arguments.hold_back.split(","))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        stores = features(arguments.data, arguments.backbone, work, held_back)
        tasks = [
            (stores, arguments.data, split, held_back, (arguments.recipe, arguments.settings), arguments.threads)
            for split in range(arguments.splits)
        ]
        with ProcessPoolExecutor(arguments.jobs) as pool:
            rows = list(pool.map(one_split, *zip(*tasks, strict=True)))
    summary = summarise(rows, held_back)
    report = {
        "command": "python " + " ".join(sys.argv),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads visible to torch {torch.__version__}",
        "commit": code_commit(),
        "protocol": "validation (pseudo-unseen classes and held-out rows from trainval); test rows never select",
        "config": settings_of(arguments.recipe, arguments.settings).to_json(),
        "seconds": round(time.monotonic() - started),
        "summary": summary,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--hold-back", default="horse,wolf")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--recipe", help="by default none: the default settings")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each job")
    return parser.parse_args()


def settings_of(recipe: str | None, values: list[str]) -> TrainConfig:
    """A recipe, or the default settings, with others in place of its own."""
    return configured(values, base=load_recipe(recipe).settings if recipe else None)


def features(data: Path, backbone: Path, work: Path, held_back: tuple[str, ...]) -> tuple[Path, Path]:
    """Features of all classes, and of the data folder with classes.csv lacking the held-back ones."""
    network = load_backbone(backbone)
    extract(read_own_photos(data), network, work / "all")
    shutil.copytree(data / "images", work / "less" / "images", ignore=lambda _, names: set(held_back) & set(names))
    with (data / "classes.csv").open(newline="") as file:
        kept = [row for row in csv.reader(file) if row[0] not in held_back]
    with (work / "less" / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    extract(read_own_photos(work / "less"), network, work / "held-back")
    return work / "all", work / "held-back"


H_OF = ("baseline", "baseline, normal features", "trained", "registered")


def one_split(
    stores: tuple[Path, Path],
    data: Path,
    split: int,
    held_back: tuple[str, ...],
    settings: tuple[str | None, list[str]],
    threads: int,
) -> dict[str, Any]:
    """Baseline, full run and held-back run of one split; the split number is also the training seed."""
    torch.set_num_threads(threads)
    recipe, values = settings
    config = settings_of(recipe, [*values, f"seed={split}"])
    full = from_store(FeatureStore.load(stores[0]), test_fraction=0.3, split_seed=split)
    less = from_store(FeatureStore.load(stores[1]), test_fraction=0.3, split_seed=split)
    photos = test_photos(FeatureStore.load(stores[0]), full, data)
    seen = {c.id for c in full.classes if c.kind == "seen"}
    new = [{"id": c.id, "name": c.name, "attributes": list(c.attributes)} for c in full.classes if c.id in held_back]
    row: dict[str, Any] = {"split": split, "baseline": ridge_lda(full, config.selection, seed=split)}
    row["baseline, normal features"] = ridge_lda(full, config.selection, seed=split, scaling="normal")
    with tempfile.TemporaryDirectory() as name:
        for label, dataset, registered in (("trained", full, []), ("registered", less, new)):
            begun = time.monotonic()
            bundle = Path(name) / label
            trained, metrics = run(dataset, config, bundle)
            answers = asyncio.run(classify(bundle, Path(name) / f"{label}-data", registered, photos))
            row[label] = {
                **score(photos, answers, seen),
                "exported": {k: v for k, v in metrics[metrics["served"]].items() if k != "per_class"},
                "student": {k: v for k, v in metrics["student"].items() if k != "per_class"},
                "novelty_auroc": metrics["novelty"]["auroc"],
                "epochs": trained.selected.epochs,
                "head": trained.selected.head.name,
                "validation_H": trained.selected.validation["H"],
                "seconds": round(time.monotonic() - begun),
            }
    return row


def run(dataset: Dataset, config: TrainConfig, bundle: Path) -> tuple[Trained, dict[str, Any]]:
    """Fit and export."""
    with tempfile.TemporaryDirectory() as run_dir:
        trained = fit(dataset, config, Path(run_dir), data={"kind": "benchmark"}, device=torch.device("cpu"))
    return trained, export(dataset, trained, bundle)["metrics"]


def test_photos(store: FeatureStore, dataset: Dataset, data: Path) -> list[tuple[Path, str]]:
    """Path and true class of every test photo."""
    return [(data / store.images[row].path, dataset.classes[dataset.labels[row]].id) for row in dataset.test]


async def classify(
    bundle: Path, data_dir: Path, register: list[dict[str, Any]], photos: list[tuple[Path, str]]
) -> list[str]:
    """Top-1 of every photo by the real app, after registering classes."""
    app = create_app(Service.open(Settings(bundle=bundle, data_dir=data_dir, threads=1)))
    transport = httpx.ASGITransport(app=app)
    async with LifespanManager(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for described in register:
            (await client.post("/classes", json=described)).raise_for_status()
        answers = []
        for start in range(0, len(photos), REQUEST):
            files = [("images", (p.name, p.read_bytes(), "image/jpeg")) for p, _ in photos[start : start + REQUEST]]
            answer = await client.post("/classify", params={"top_k": 1}, files=files, timeout=120)
            answer.raise_for_status()
            answers += [result["predictions"][0]["class_id"] for result in answer.json()["results"]]
    return answers


def score(photos: list[tuple[Path, str]], answers: list[str], seen: set[str]) -> dict[str, Any]:
    """U, S, H and per-class accuracy of answers."""
    ids = sorted({true for _, true in photos} | set(answers))
    place = {name: i for i, name in enumerate(ids)}
    labels = np.array([place[true] for _, true in photos])
    accuracy = per_class_accuracy(np.array([place[a] for a in answers]), labels, len(ids))
    by_class = {name: float(a) for name, a in zip(ids, accuracy, strict=True) if np.isfinite(a)}
    s = float(np.mean([a for name, a in by_class.items() if name in seen]))
    u = float(np.mean([a for name, a in by_class.items() if name not in seen]))
    return {"U": u, "S": s, "H": harmonic_mean(u, s), "per_class": by_class}


def summarise(rows: list[dict[str, Any]], held_back: tuple[str, ...]) -> dict[str, Any]:
    """Means with standard deviations, and paired differences with standard errors."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}

    def paired(differences: list[float]) -> dict[str, float]:
        error = float(np.std(differences, ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else 0.0
        return {"mean": float(np.mean(differences)), "standard_error": error}

    def held(row: dict[str, Any], label: str) -> float:
        return float(np.mean([row[label]["per_class"][name] for name in held_back]))

    return {
        "H": {label: spread([r[label]["H"] for r in rows]) for label in H_OF},
        "student_H": spread([r["trained"]["student"]["H"] for r in rows]),
        "novelty_auroc": spread([r["trained"]["novelty_auroc"] for r in rows]),
        "trained_less_baseline_H": paired([r["trained"]["H"] - r["baseline"]["H"] for r in rows]),
        "registered_less_trained_H": paired([r["registered"]["H"] - r["trained"]["H"] for r in rows]),
        "held_back_accuracy": {label: spread([held(r, label) for r in rows]) for label in ("trained", "registered")},
        "registered_less_trained_accuracy": paired([held(r, "registered") - held(r, "trained") for r in rows]),
    }


if __name__ == "__main__":
    main()
