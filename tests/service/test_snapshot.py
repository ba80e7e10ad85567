"""Snapshots that share rows: each keeps its own view, and no score depends on where a row lies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.classes import ClassEntry
from model.head import Row
from service.classes.class_table import BLOCK, KnownClass
from service.classes.snapshot import Snapshot

Z = 7


def row(seed: int) -> Row:
    values = np.random.default_rng(seed).standard_normal(Z + 1).astype(np.float32)
    return Row(values[:Z], float(values[Z]))


def known(class_id: str, version: int = 0, seed: int = 0) -> KnownClass:
    kind = "seen" if class_id.startswith("s") else "unseen"
    return KnownClass(
        entry=ClassEntry(id=class_id, name=f"{class_id} {seed}", kind=kind, attributes=()), registry_version=version
    )


def build(count: int, *, first: int = 0) -> Snapshot:
    ids = [f"{'s' if i % 5 == 0 else 'u'}{i:05}" for i in range(first, first + count)]
    return Snapshot.build(0, [known(i) for i in ids], [row(int(i[1:])) for i in ids], dimension=Z)


def view(snapshot: Snapshot) -> list[tuple[str, str, int, bytes, float, bool]]:
    """Everything a snapshot says, in its order."""
    made = zip(snapshot.classes, snapshot.weight, snapshot.bias, snapshot.seen, strict=True)
    return [
        (k.entry.id, k.entry.name, k.registry_version, weight.tobytes(), float(bias), bool(seen))
        for k, weight, bias, seen in made
    ]


class Plain:
    """The slow reference: a list that is copied for every version."""

    def __init__(self, rows: list[tuple[str, str, int, bytes, float, bool]]) -> None:
        self.rows = rows

    def with_changes(self, version: int, edits: list[tuple[str, int | None]]) -> Plain:
        rows = list(self.rows)
        for class_id, seed in edits:
            rows = [r for r in rows if r[0] != class_id]
            if seed is not None:
                new = row(seed)
                name = f"{class_id} {seed}"
                rows.append((class_id, name, version, new.weight.tobytes(), new.bias, class_id.startswith("s")))
        return Plain(rows)


def edits_of(version: int, edits: list[tuple[str, int | None]]) -> list[tuple[str, tuple[KnownClass, Row] | None]]:
    return [(i, None if seed is None else (known(i, version, seed), row(seed))) for i, seed in edits]


IDS = [f"{kind}{i:05}" for i in range(6) for kind in ("s", "u")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(IDS), st.none() | st.integers(1, 99)), max_size=5), min_size=1, max_size=12
    ),
    st.data(),
)
def test_any_changes_give_what_copying_everything_gives(changes, data) -> None:
    snapshots, plain = [build(6)], [Plain(view(build(6)))]
    for version, edits in enumerate(changes, start=1):
        present = {r[0] for r in plain[-1].rows}
        possible = []
        for class_id, seed in edits:
            if seed is not None or class_id in present:
                possible.append((class_id, seed))
                (present.add if seed is not None else present.discard)(class_id)
        snapshots.append(snapshots[-1].with_changes(version, edits_of(version, possible)))
        plain.append(plain[-1].with_changes(version, possible))
    for snapshot, expected in zip(snapshots, plain, strict=True):
        assert view(snapshot) == expected.rows
        assert [k.entry.id for k in snapshot.after()] == sorted(r[0] for r in expected.rows)
        assert len(snapshot) == len(expected.rows)
        for class_id in IDS:
            found = snapshot.get(class_id)
            assert (found is not None) == (class_id in {r[0] for r in expected.rows})
    # A second line of versions from an old snapshot leaves the first one alone.
    start = data.draw(st.integers(0, len(snapshots) - 1))
    branch = snapshots[start].with_changes(99, edits_of(99, [("u99999", 5)]))
    assert view(branch) == plain[start].with_changes(99, [("u99999", 5)]).rows
    assert [view(s) for s in snapshots] == [p.rows for p in plain]


def test_adding_a_class_copies_no_row() -> None:
    before = build(3 * BLOCK)
    after = before.with_changes(1, edits_of(1, [("u99999", 7)]))
    shared = zip(before.weight_parts(before.rows), after.weight_parts(after.rows[: len(before)]), strict=True)
    assert all(np.shares_memory(a, b) for a, b in shared)
    assert len(after) == len(before) + 1


def test_what_is_gone_makes_room_once_it_is_much() -> None:
    snapshot = build(10)
    for version in range(1, 3000):
        snapshot = snapshot.with_changes(version, edits_of(version, [("u00001", version)]))
    assert len(snapshot.table) < 1500
    assert view(snapshot)[-1][:3] == ("u00001", "u00001 2999", 2999)


def test_removing_what_is_not_there_changes_nothing() -> None:
    snapshot = build(3)
    before = view(snapshot)
    with pytest.raises(KeyError, match="nobody"):
        snapshot.with_changes(1, edits_of(1, [("u00009", 4), ("nobody", None)]))
    with pytest.raises(KeyError):
        snapshot.with_changes(1, edits_of(1, [("u00001", None), ("u00001", None)]))
    assert view(snapshot) == before
    assert view(snapshot.with_changes(1, edits_of(1, [("u00009", 4)])))[:3] == before


@pytest.mark.parametrize("count", [1, 5, BLOCK, 2 * BLOCK + 37])
def test_logits_are_those_of_the_plain_product(count: int) -> None:
    snapshot = build(count)
    z = np.random.default_rng(1).standard_normal((3, Z)).astype(np.float32)
    expected = z.astype(np.float64) @ snapshot.weight.T.astype(np.float64) + snapshot.bias
    np.testing.assert_allclose(snapshot.logits(z, snapshot.rows), expected, rtol=1e-5, atol=1e-5)


def test_a_score_does_not_depend_on_other_classes_places_or_images() -> None:
    random = np.random.default_rng(2)
    z = random.standard_normal((4, Z)).astype(np.float32)
    many = build(2 * BLOCK + 50)
    all_at_once = many.logits(z, many.rows)
    for _ in range(20):
        rows = np.sort(random.choice(many.rows, size=int(random.integers(1, 300)), replace=False))
        assert many.logits(z, rows).tobytes() == all_at_once[:, rows].tobytes()
    for image in range(4):
        assert many.logits(z[image : image + 1], many.rows).tobytes() == all_at_once[image].tobytes()
    moved = build(50, first=2 * BLOCK)
    assert moved.logits(z, moved.rows).tobytes() == np.ascontiguousarray(all_at_once[:, 2 * BLOCK :]).tobytes()


def test_listing_goes_on_while_classes_come_and_go() -> None:
    snapshot = build(600)
    listing = snapshot.after("s00010")
    first = [next(listing).entry.id for _ in range(300)]
    newer = snapshot.with_changes(1, edits_of(1, [("s00000", None), ("a", 1), ("u00599", None), ("zz", 2)]))
    rest = [k.entry.id for k in listing]
    ids = sorted(k.entry.id for k in snapshot.classes)
    assert first + rest == [i for i in ids if i > "s00010"]
    assert [k.entry.id for k in newer.after("u00590")] == [f"u{i:05}" for i in range(591, 599) if i % 5] + ["zz"]
