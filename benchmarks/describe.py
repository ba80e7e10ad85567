"""H against the number of photos by which unseen classes are known, with their description and without.

    python benchmarks/describe.py SETS... --out benchmarks/results/DATE-describe [--backbone FILE] [--speed FILE]

SETS are benchmark folders (`res101.mat`, `att_splits.mat`) and folders of photos (`images/`, `classes.csv`, and
`--backbone`). For each set one run is trained, exported and served by the real app. A draw takes some test rows of each
unseen class as its photos; a smaller number of photos is the first of them, and none of them is ever tested. The unseen
classes are replaced by `PUT /classes/{id}` with description, photos or both. Every other test row goes through
`POST /classify`: benchmark features as pictures (benchmarks/pixel_backbone.py), and the features of photos likewise, as
that is the same to the networks. That it is the same is measured: draw 0 of described classes, with the fewest and the
most photos, is repeated with the photos themselves. Rows are written to OUT.json as they finish and those that are
there are not repeated; OUT.md and OUT.svg are made from them.
`--speed` measures registering and classifying with that backbone (benchmarks/describe_speed.py).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from asgi_lifespan import LifespanManager
from numpy.typing import NDArray

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.animals import score  # noqa: E402
from benchmarks.describe_speed import measure_speed  # noqa: E402
from benchmarks.describe_table import draw, table  # noqa: E402
from benchmarks.pixel_backbone import with_pixel_backbone  # noqa: E402
from benchmarks.rows import Row, command, rows_of, save  # noqa: E402
from model.bundle import Bundle  # noqa: E402
from service.server.app import create_app  # noqa: E402
from service.service import Service  # noqa: E402
from service.settings import Settings  # noqa: E402
from training.datasets.benchmark import load_benchmark  # noqa: E402
from training.datasets.dataset import Dataset, from_store  # noqa: E402
from training.exporting.export import export  # noqa: E402
from training.features.backbone import load_backbone  # noqa: E402
from training.features.extraction import extract  # noqa: E402
from training.features.own_photos import read_own_photos  # noqa: E402
from training.features.store import FeatureStore  # noqa: E402
from training.recipes import configured, load_recipe  # noqa: E402
from training.runs.contents import Trained, code_commit  # noqa: E402
from training.runs.fit import fit  # noqa: E402

REQUEST = 64  # pictures per request
Picture = Callable[[int], bytes]
"""The image file of a row."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A bundle and the rows that it is asked about.

    Attributes:
        bundle: its folder.
        dataset: what it was trained on; its test rows are asked about.
        picture: a row as an image file.
        form: `pictures` of features, or `photos`.
        backbone: where the features come from.
    """

    bundle: Path
    dataset: Dataset
    picture: Picture
    form: str
    backbone: str


def main() -> None:
    arguments = parse()
    file = arguments.out.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        for folder in arguments.sets:
            asked = wanted(folder, arguments)
            if not any(missing(file, key) for keys in asked.values() for key in keys):
                continue
            work = (arguments.work or Path(name)) / folder.name
            work.mkdir(parents=True, exist_ok=True)
            for served in trained(folder, work, arguments):
                asyncio.run(measure(served, asked[served.form], arguments))
    if arguments.speed:
        save_speed(file, measure_speed(arguments.speed))
    write(arguments.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, help="ONNX file with its JSON, for photos")
    parser.add_argument("--recipe", default="cpu-wgan")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--photos", type=int, nargs="+", default=[0, 1, 2, 5, 10])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps features and bundles here, and takes those that are there")
    parser.add_argument("--speed", type=Path, help="backbone to measure registering and classifying with")
    return parser.parse_args()


def wanted(folder: Path, arguments: argparse.Namespace) -> dict[str, list[Row]]:
    """The rows that a set will have, by the form in which its images are sent; `described`: with attributes."""
    states = [{"photos": n, "described": True} for n in arguments.photos]
    states += [{"photos": n, "described": False} for n in arguments.photos if n]
    of = {"data": folder.name, "seed": arguments.seed}
    keys = {
        "pictures": [
            {**of, "form": "pictures", "draw": number, **state} for state in states for number in range(arguments.draws)
        ]
    }
    if (folder / "images").is_dir():
        fewest_and_most = (arguments.photos[0], arguments.photos[-1])
        keys["photos"] = [{**of, "form": "photos", "draw": 0, "photos": n, "described": True} for n in fewest_and_most]
    return keys


def missing(file: Path, key: Row) -> bool:
    """Whether there is no such row yet."""
    return not any(key.items() <= row.items() for row in rows_of(file))


def trained(folder: Path, work: Path, arguments: argparse.Namespace) -> Iterator[Served]:
    """One run of a set as a bundle that takes pictures of features, and of photos as one that takes the photos too."""
    photos, backbone = (folder / "images").is_dir(), "benchmark"
    if photos:
        backbone = arguments.backbone.stem
        if not (work / "features").is_dir():
            extract(read_own_photos(folder), load_backbone(arguments.backbone), work / "features")
        store = FeatureStore.load(work / "features")
        dataset = from_store(store, test_fraction=0.3, split_seed=arguments.seed)
    else:
        dataset = load_benchmark(folder)
    as_pictures, code = with_pixel_backbone(dataset, work)
    run = fitted(as_pictures, work / f"run-{arguments.seed}", arguments)
    bundle = exported(as_pictures, run, work / f"pictures-{arguments.seed}")
    picture = functools.cache(lambda row: code.picture(dataset.features[row]))
    yield Served(bundle=bundle, dataset=dataset, picture=picture, form="pictures", backbone=backbone)
    if photos:
        bundle = exported(dataset, run, work / f"photos-{arguments.seed}")
        yield Served(
            bundle=bundle,
            dataset=dataset,
            picture=lambda row: (folder / store.images[row].path).read_bytes(),
            form="photos",
            backbone=backbone,
        )


def fitted(dataset: Dataset, run_dir: Path, arguments: argparse.Namespace) -> Trained:
    """The run that is there, or a new one."""
    if (run_dir / "checkpoint.pt").exists():
        return Trained.load(run_dir)
    run_dir.mkdir(exist_ok=True)
    config = configured([*arguments.settings, f"seed={arguments.seed}"], base=load_recipe(arguments.recipe).settings)
    return fit(dataset, config, run_dir, data={"kind": "benchmark"}, device=torch.device("cpu"))


def exported(dataset: Dataset, run: Trained, folder: Path) -> Path:
    """The bundle that is there, or that of a run."""
    if not folder.exists():
        export(dataset, run, folder)
    return folder


async def measure(served: Served, keys: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Every row that the file has not."""
    file, manifest = arguments.out.with_suffix(".json"), Bundle.load(served.bundle).manifest
    prior, of = manifest.head.photos, {name: keys[0][name] for name in ("data", "seed", "form")}
    others = {row["bundle"] for row in rows_of(file) if of.items() <= row.items()} - {manifest.bundle_id}
    if others:
        raise SystemExit(f"{file}: the rows of {of} are of the bundle {', '.join(others)}, not of {manifest.bundle_id}")
    chosen = {"seen_penalty": manifest.calibration.seen_penalty, "prior": prior and prior.to_json()}
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(bundle=served.bundle, data_dir=Path(name), threads=arguments.threads, deadline=600)
        app = create_app(Service.open(settings))
        transport = httpx.ASGITransport(app=app)
        async with LifespanManager(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for key in keys:
                if not missing(file, key):
                    continue
                drawn, tested = draw_photos(served.dataset, max(arguments.photos), seed=key["draw"])
                await register(client, served, drawn, photos=key["photos"], described=key["described"])
                scores = await classify(client, served, tested)
                row = {**key, **scores, "test_rows": len(tested), **chosen, "bundle": manifest.bundle_id}
                row |= {"recipe": arguments.recipe, "backbone": served.backbone, "commit": code_commit()}
                save(file, [*rows_of(file), row], command("describe.py"))
                print(f"{key}: H {scores['H']:.4f}", flush=True)
    write(arguments.out)


def draw_photos(dataset: Dataset, most: int, *, seed: int) -> tuple[dict[int, list[int]], list[int]]:
    """So many test rows of each unseen class in an order of chance, and the test rows that are left."""
    random, labels = np.random.default_rng(seed), dataset.labels[dataset.test]
    drawn = {
        index: random.permutation(dataset.test[labels == index])[:most].tolist()
        for index in np.flatnonzero(~dataset.seen).tolist()
    }
    taken: NDArray[np.int64] = np.concatenate(list(drawn.values()))
    return drawn, dataset.test[~np.isin(dataset.test, taken)].tolist()


async def register(
    client: httpx.AsyncClient, served: Served, drawn: dict[int, list[int]], *, photos: int, described: bool
) -> None:
    """Replace every unseen class; with its description alone it is as the bundle has it."""
    (await client.post("/registry:rollback", json={"version": 0})).raise_for_status()
    if not photos:
        return
    for index, rows in drawn.items():
        entry = served.dataset.classes[index]
        examples = [{"data": base64.b64encode(served.picture(row)).decode()} for row in rows[:photos]]
        document: dict[str, Any] = {"name": entry.name, "examples": examples}
        if described:
            document["attributes"] = list(entry.attributes)
        answer = await client.put(f"/classes/{entry.id}", json=document, timeout=600)
        answer.raise_for_status()
        assert answer.json()["examples"] == photos, answer.text


async def classify(client: httpx.AsyncClient, served: Served, rows: Sequence[int]) -> dict[str, float]:
    """U, S and H of the answers."""
    answers: list[str] = []
    for start in range(0, len(rows), REQUEST):
        files = [("images", (str(row), served.picture(row))) for row in rows[start : start + REQUEST]]
        answer = await client.post("/classify", params={"top_k": 1}, files=files, timeout=600)
        answer.raise_for_status()
        answers += [result["predictions"][0]["class_id"] for result in answer.json()["results"]]
    classes = served.dataset.classes
    true = [(Path(), classes[label].id) for label in served.dataset.labels[np.asarray(rows)].tolist()]
    scored = score(true, answers, {c.id for c in classes if c.kind == "seen"})
    return {name: scored[name] for name in ("U", "S", "H")}


def save_speed(file: Path, speed: Row) -> None:
    """Keep it beside the rows."""
    save(file, [*(row for row in rows_of(file) if "speed" not in row), {"speed": speed}], command("describe.py"))


def write(out: Path) -> None:
    """The table and the drawing of what there is."""
    rows = rows_of(out.with_suffix(".json"))
    out.with_suffix(".md").write_text(table(rows, command("describe.py"), out.name))
    out.with_suffix(".svg").write_text(draw([row for row in rows if "speed" not in row]))


if __name__ == "__main__":
    main()
