"""Whatever happened to classes and their photos before, their rows are those of a fresh registration, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model.bundle import TRUNK, Bundle
from model.classes import ClassEntry, ExamplePhoto
from model.head import Float32
from service.classes.edits import AddExamples, Create, Put, RemoveExample
from service.classes.registrar import Registrar
from service.classes.replay import Replay
from service.classes.snapshot import Snapshot
from service.errors import LastExampleError
from service.registry.arrays import embedding_bytes
from service.registry.database import Database, database_url
from service.registry.log import ChangeLog
from tests.service import tiny
from tests.service.photos import PRIOR
from tests.service.test_registrar import FakeEngine

CLASSES = {"a": (0.9, 0.5, 0.05), "b": (0.1, 0.2, 0.9), "c": None, "d": None}
PHOTOS = 6
ACTS = ("register", "put", "add", "add", "take back", "remove", "batch", "roll back")

# Two cancel each other and are so large that what is added between them is lost: a sum in another order is another sum.
_random = np.random.default_rng(3).standard_normal((PHOTOS - 1, tiny.Z))
EMBEDDINGS = np.concatenate([1e12 * _random[:1], -1e12 * _random[:1], 1e-6 * _random[1:]]).astype(np.float32)

acts = st.lists(
    st.tuples(
        st.sampled_from(ACTS),
        st.sampled_from(sorted(CLASSES)),
        st.sets(st.integers(0, PHOTOS - 1), min_size=1),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


class World:
    """A registry under test, and what its classes must be: whether each is described, and its photos."""

    def __init__(self, bundle: Bundle, place: Path) -> None:
        self.bundle = bundle
        self.log = ChangeLog(
            Database(database_url(place, None)),
            bundle_id=bundle.manifest.bundle_id,
            dimension=tiny.Z,
            vocabulary=tiny.NAMES,
        )
        self.registrar = Registrar(bundle, FakeEngine(), self.log)
        self.expected: dict[str, tuple[bool, frozenset[int]]] = {}
        self.history: dict[int, dict[str, tuple[bool, frozenset[int]]]] = {}

    def clear(self) -> None:
        for class_id in list(self.expected):
            self.registrar.remove(class_id)
        self.expected, self.history = {}, {}

    def example(self, number: int) -> ExamplePhoto:
        return ExamplePhoto(
            id=hashlib.sha256(bytes([number])).hexdigest()[:32],
            width=8,
            height=8,
            added_at="2026-01-01T00:00:00+00:00",
            trunk=self.bundle.manifest.files[TRUNK],
            digest=hashlib.sha256(embedding_bytes(EMBEDDINGS[number])).hexdigest(),
        )

    def of(self, photos: frozenset[int]) -> tuple[tuple[ExamplePhoto, ...], dict[str, Float32]]:
        examples = tuple(sorted((self.example(i) for i in photos), key=lambda example: example.id))
        return examples, {self.example(i).id: EMBEDDINGS[i] for i in photos}

    def create(self, class_id: str, described: bool, photos: frozenset[int]) -> Create:
        examples, embeddings = self.of(photos)
        attributes = (CLASSES[class_id] or tiny.VIOLET) if described else None
        entry = ClassEntry(id=class_id, name=class_id, kind="unseen", attributes=attributes, examples=examples)
        return Create(entry=entry, embeddings=embeddings)

    def act(self, act: str, class_id: str, photos: frozenset[int], described: bool) -> None:
        there = self.expected.get(class_id)
        if act == "batch":
            edits = [self.create(i, described, photos) for i in CLASSES]
            self.registrar.apply_batch([Put(entry=edit.entry, embeddings=edit.embeddings) for edit in edits])
            self.expected |= dict.fromkeys(CLASSES, (described, photos))
        elif act == "roll back":
            if self.history:
                version = sorted(self.history)[len(photos) % len(self.history)]
                self.registrar.rollback(version)
                self.expected = dict(self.history[version])
        elif act == "put" or there is None:
            edit = self.create(class_id, described, photos)
            if there is None and act != "put":
                self.registrar.create(edit.entry, embeddings=edit.embeddings)
            else:
                self.registrar.put(edit.entry, embeddings=edit.embeddings)
            self.expected[class_id] = (described, photos)
        elif act == "add":
            examples, embeddings = self.of(photos)
            self.registrar.change(AddExamples(class_id=class_id, examples=examples, embeddings=embeddings, most=PHOTOS))
            self.expected[class_id] = (there[0], there[1] | photos)
        elif act == "take back" and there[1]:
            gone = sorted(there[1])[len(photos) % len(there[1])]
            edit = RemoveExample(class_id=class_id, example_id=self.example(gone).id)
            if there == (False, {gone}):
                with pytest.raises(LastExampleError):
                    self.registrar.change(edit)
                return
            self.registrar.change(edit)
            self.expected[class_id] = (there[0], there[1] - {gone})
        elif act == "remove":
            self.registrar.remove(class_id)
            del self.expected[class_id]
        self.history[self.registrar.snapshot.registry_version] = dict(self.expected)


@pytest.fixture(scope="module")
def worlds(with_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, World]]:
    bundle = Bundle.load(with_photos)
    both = World(bundle, tmp_path_factory.mktemp("lived")), World(bundle, tmp_path_factory.mktemp("fresh"))
    yield both
    for world in both:
        world.log.close()


def bits(snapshot: Snapshot, class_id: str) -> tuple[bytes, float, float, int]:
    row, known = snapshot.row(class_id), snapshot.there(class_id)
    return row.weight.tobytes(), row.bias, known.photo_share, len(known.entry.examples)


@given(acts)
@example([("register", "a", {0, 1}, False)])  # a mean of zero, whose bias is a zero with a sign
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_rows_do_not_depend_on_what_was_before(
    worlds: tuple[World, World], acted: list[tuple[str, str, set[int], bool]]
) -> None:
    lived, fresh = worlds
    lived.clear()
    fresh.clear()
    for act, class_id, photos, described in acted:
        lived.act(act, class_id, frozenset(photos), described)
    for class_id, (described, photos) in lived.expected.items():
        edit = fresh.create(class_id, described, photos)
        fresh.registrar.create(edit.entry, embeddings=edit.embeddings)
        fresh.expected[class_id] = (described, photos)
    reread = Replay(lived.bundle).load(lived.log)
    present = {known.entry.id for known in lived.registrar.snapshot.classes} - set(tiny.COLOURS)
    assert present == set(lived.expected)
    for class_id in lived.expected:
        expected = bits(fresh.registrar.snapshot, class_id)
        assert bits(lived.registrar.snapshot, class_id) == expected
        assert bits(reread, class_id) == expected


def test_sums_in_another_order_would_be_seen() -> None:
    """Else the test above could not fail."""
    order = sorted(range(PHOTOS), key=lambda i: hashlib.sha256(bytes([i])).hexdigest())
    totals = {PRIOR.mean(None, EMBEDDINGS[of]).astype(np.float32).tobytes() for of in (order, order[::-1], [0, 1, 2])}
    assert len(totals) == 3
