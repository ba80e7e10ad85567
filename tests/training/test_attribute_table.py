"""`attributes.csv`: read with every fault named, kept with the features, and no part of what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import DataError
from model.manifest import bundle_id
from model.vocabulary import AttributeWords, Vocabulary
from tests.service.tiny import HEAD
from tests.training.photos import write_backbone, write_data
from training.datasets.dataset import from_store
from training.features.backbone import load_backbone
from training.features.extraction import Extraction, extract
from training.features.own_photos import read_own_photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", per_class=5)


def problems_of(root: Path, *lines: str) -> dict[str, list[str]]:
    (root / "attributes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_own_photos(root)
    found: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        found.setdefault(problem.pointer, []).append(problem.detail)
    return found


def test_without_the_table_nothing_is_said(root: Path) -> None:
    assert read_own_photos(root).attribute_words == {}


def test_rows_in_any_order_and_not_for_every_attribute(root: Path) -> None:
    text = '\ufeffunit,name,description,\r\n%, wet ,"Lives in\r\n water, or near it",\r\n,,,\r\n'
    (root / "attributes.csv").write_bytes(text.encode())
    words = read_own_photos(root).attribute_words
    assert words == {"wet": AttributeWords(description="Lives in water, or near it", unit="%")}
    (root / "attributes.csv").write_text("name,unit\nfurry,hairs per mm²\nwet\n", encoding="utf-8")
    words = read_own_photos(root).attribute_words
    assert words == {"furry": AttributeWords(unit="hairs per mm²"), "wet": AttributeWords()}


def test_every_fault_is_named_where_it_stands(root: Path) -> None:
    lines = (
        "name,description,unit",
        "fury,x,%",
        "wet,y,",
        "wet,z,",
        ",lost,",
        f"furry,{'d' * 1001},a\u202eb",
        "wet,a,b,c",
    )
    assert problems_of(root, *lines) == {
        "attributes.csv line 2": ["expected an attribute of classes.csv, found 'fury'; did you mean furry?"],
        "attributes.csv line 4": ["expected every attribute once, 'wet' is also in line 3"],
        "attributes.csv line 5": ["expected the name of an attribute, found an empty cell"],
        "attributes.csv line 6, column 'description'": ["expected at most 1000 characters, got 1001"],
        "attributes.csv line 6, column 'unit'": [
            "expected a text without a character that turns the direction of the text around, got U+202E as character 2"
        ],
        "attributes.csv line 7": [
            "expected 3 cells as in line 1, found 4",
            "expected every attribute once, 'wet' is also in line 3",
        ],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("attribute,description\nwet,x", "expected a column 'name', found none"),
        ("attribute,description\nwet,x", "expected the columns name, description and unit, found 'attribute'"),
        ("name\nwet", "expected a column 'description' or 'unit', found neither"),
        ("name;description\nwet;x", "expected columns separated by commas"),
        ("", "expected a header and one row per attribute, the file is empty"),
    ],
)
def test_columns_that_are_missing_or_unknown_are_named(root: Path, text: str, words: str) -> None:
    found = problems_of(root, text)
    assert words in [detail for details in found.values() for detail in details]


def test_words_are_kept_with_the_features_and_change_neither_hash_nor_rows(root: Path, tmp_path: Path) -> None:
    backbone = load_backbone(write_backbone(tmp_path / "b.onnx"))

    def run() -> Extraction:
        return extract(read_own_photos(root), backbone, tmp_path / "features", batch_size=4, workers=1)

    before = run().store
    (root / "attributes.csv").write_text("name,description,unit\nwet,Lives in water,%\n")
    again = run()
    assert (again.extracted, again.changed, run().changed) == (0, True, False)
    assert again.store.data_hash == before.data_hash
    dataset = from_store(again.store, test_fraction=0, split_seed=0)
    plain = from_store(before, test_fraction=0, split_seed=0)
    furry, wet = dataset.vocabulary.attributes
    assert (furry.words, wet.words) == (AttributeWords(), AttributeWords(description="Lives in water", unit="%"))
    assert Vocabulary.from_json(dataset.vocabulary.to_json()) == dataset.vocabulary
    assert dataset.vocabulary.to_json() != plain.vocabulary.to_json()
    assert bundle_id("a", "b", dataset.vocabulary, HEAD) == bundle_id("a", "b", plain.vocabulary, HEAD)
