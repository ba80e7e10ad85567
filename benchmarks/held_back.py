"""Classes held back from training and registered over HTTP, against the run that knew them.

    python benchmarks/held_back.py SETS... --out benchmarks/results/DATE-held-back [--backbone FILE]

SETS are benchmark folders (`res101.mat`, `att_splits.mat`) and folders of photos (`images/`, `classes.csv`, and
`--backbone`). A row is a set and a seed: one run knows all classes, the other is trained without a third of the unseen
classes (the seed draws them; of photos it also makes the split). Both are exported and served by the real app; in the
second the held-back classes are registered by `POST /classes:batch`. Every test row then goes through `POST /classify`:
photos as they are, benchmark features as pictures (benchmarks/pixel_backbone.py). Rows are written to OUT.json as they
finish and those that are there are not repeated; OUT.md is made from them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from asgi_lifespan import LifespanManager
from numpy.typing import NDArray

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.animals import score  # noqa: E402
from benchmarks.held_back_table import difference, table  # noqa: E402
from benchmarks.pixel_backbone import with_pixel_backbone  # noqa: E402
from benchmarks.rows import command, rows_of, save  # noqa: E402
from model.vocabulary import Vocabulary  # noqa: E402
from service.server.app import create_app  # noqa: E402
from service.service import Service  # noqa: E402
from service.settings import Settings  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.datasets.benchmark import load_benchmark  # noqa: E402
from training.datasets.dataset import Dataset, from_store  # noqa: E402
from training.exporting.export import export  # noqa: E402
from training.features.backbone import load_backbone  # noqa: E402
from training.features.extraction import extract  # noqa: E402
from training.features.own_photos import read_own_photos  # noqa: E402
from training.features.store import FeatureStore  # noqa: E402
from training.recipes import configured, load_recipe  # noqa: E402
from training.runs.contents import code_commit  # noqa: E402
from training.runs.fit import fit  # noqa: E402

REQUEST = 32  # pictures per request
Picture = Callable[[int], bytes]
"""The image file of a row."""


def main() -> None:
    arguments = parse()
    file = arguments.out.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        opened: dict[str, Callable[[int], tuple[Dataset, Picture]]] = {}
        for seed in range(max(arguments.seeds, arguments.photo_seeds)):
            for folder in arguments.sets:
                photos = (folder / "images").is_dir()
                rows = rows_of(file)
                done = any((row["data"], row["seed"]) == (folder.name, seed) for row in rows)
                if done or seed >= (arguments.photo_seeds if photos else arguments.seeds):
                    continue
                if folder.name not in opened:
                    work = Path(name) / folder.name
                    work.mkdir()
                    opened[folder.name] = open_photos(folder, arguments, work) if photos else open_set(folder, work)
                row = {"data": folder.name, "seed": seed, **measure(*opened[folder.name](seed), seed, arguments)}
                rows = [*rows_of(file), row]  # another process may have added some meanwhile
                save(file, rows, command("held_back.py"))
                arguments.out.with_suffix(".md").write_text(table(rows, command("held_back.py")))
                print(f"{folder.name} seed {seed}: {difference(row)}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, help="ONNX file with its JSON, for photos")
    parser.add_argument("--recipe", default="cpu-wgan")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, default=3, help="of benchmark folders")
    parser.add_argument("--photo-seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def open_set(folder: Path, work: Path) -> Callable[[int], tuple[Dataset, Picture]]:
    """A benchmark has one split; its rows become pictures."""
    dataset, code = with_pixel_backbone(load_benchmark(folder), work)
    return lambda _seed: (dataset, lambda row: code.picture(dataset.features[row]))


def open_photos(folder: Path, arguments: argparse.Namespace, work: Path) -> Callable[[int], tuple[Dataset, Picture]]:
    """Photos are split anew by each seed."""
    extract(read_own_photos(folder), load_backbone(arguments.backbone), work / "features")
    store = FeatureStore.load(work / "features")

    def picture(row: int) -> bytes:
        return (folder / store.images[row].path).read_bytes()

    return lambda seed: (from_store(store, test_fraction=0.3, split_seed=seed), picture)


def measure(dataset: Dataset, picture: Picture, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both runs, each through HTTP."""
    config = configured([*arguments.settings, f"seed={seed}"], base=load_recipe(arguments.recipe).settings)
    unseen = np.flatnonzero(~dataset.seen)
    held = np.sort(np.random.default_rng(seed).choice(unseen, round(len(unseen) / 3), replace=False))
    new = [dataset.classes[index] for index in held.tolist()]
    documents = [{"id": c.id, "name": c.name, "attributes": list(c.attributes)} for c in new]
    true = [dataset.classes[label].id for label in dataset.labels[dataset.test].tolist()]
    seen = {c.id for c in dataset.classes if c.kind == "seen"}
    row: dict[str, Any] = {"held_back": [c.id for c in new], "test_rows": len(true), "commit": code_commit()}
    for label, data, registered in (("knew", dataset, []), ("registered", without(dataset, held), documents)):
        begun = time.monotonic()
        row[label] = run(data, config, registered, [picture(r) for r in dataset.test.tolist()], true, seen)
        row[label]["seconds"] = round(time.monotonic() - begun)
    return {**row, "recipe": arguments.recipe, "config_hash": config.digest()}


def run(
    dataset: Dataset,
    config: TrainConfig,
    registered: list[dict[str, Any]],
    pictures: list[bytes],
    true: list[str],
    seen: set[str],
) -> dict[str, Any]:
    """Fit, export, serve and score."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        trained = fit(dataset, config, folder / "run", data={"kind": "benchmark"}, device=torch.device("cpu"))
        export(dataset, trained, folder / "bundle")
        answers = asyncio.run(classify(folder / "bundle", folder / "data", registered, pictures))
        scored = score([(Path(), name) for name in true], answers, seen)
    selected = trained.selected
    chosen = {"validation_H": selected.validation["H"], "choice": selected.head.name, "epochs": selected.epochs}
    return {**scored, **chosen}


def without(dataset: Dataset, held: NDArray[np.int64]) -> Dataset:
    """The data set without some unseen classes: no rows of them, no attributes, no part in the vocabulary's ranges."""
    kept = np.setdiff1d(np.arange(len(dataset.classes)), held)
    classes = tuple(dataset.classes[index] for index in kept.tolist())
    old = dataset.vocabulary
    vocabulary = Vocabulary.from_classes(
        old.names, [c.attributes for c in classes], offset=old.offset, scale=old.scale, unit_length=old.unit_length
    )
    place = np.cumsum(~np.isin(np.arange(len(dataset.classes)), held)) - 1
    removed = json.dumps([dataset.classes[index].id for index in held.tolist()])
    return dataclasses.replace(
        dataset,
        labels=place[dataset.labels],
        classes=classes,
        vocabulary=vocabulary,
        test=dataset.test[~np.isin(dataset.labels[dataset.test], held)],
        data_hash=hashlib.sha256(f"{dataset.data_hash} without {removed}".encode()).hexdigest(),
    )


async def classify(bundle: Path, data_dir: Path, register: list[dict[str, Any]], pictures: list[bytes]) -> list[str]:
    """Top-1 of every picture by the real app, after registering classes."""
    app = create_app(Service.open(Settings(bundle=bundle, data_dir=data_dir, threads=1, deadline=600)))
    transport = httpx.ASGITransport(app=app)
    async with LifespanManager(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        if register:
            answer = await client.post("/classes:batch", json={"classes": register}, timeout=600)
            answer.raise_for_status()
        answers = []
        for start in range(0, len(pictures), REQUEST):
            files = [("images", (str(i), data)) for i, data in enumerate(pictures[start : start + REQUEST])]
            answer = await client.post("/classify", params={"top_k": 1}, files=files, timeout=600)
            answer.raise_for_status()
            answers += [result["predictions"][0]["class_id"] for result in answer.json()["results"]]
    return answers


if __name__ == "__main__":
    main()
