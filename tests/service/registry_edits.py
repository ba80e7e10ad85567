"""Changes of the registry that are tried at random, in the model's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st

from tests.service import tiny
from tests.service.registry_model import HUGE, MOST_PHOTOS, Kind, ModelClass, ModelEdit
from tests.service.test_photo_orders import EMBEDDINGS

IDS = ["bluish", "a", "b", "bluish", "a", "b", "reddish", "c"]
ATTRIBUTES = [tiny.VIOLET, (0.5, 0.5, 0.5), (0.1, 0.9, 0.2)]
WORDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["One", "Two"]),
        "description": st.sampled_from(["", "striped"]),
        "metadata": st.sampled_from([(("x", 1),), (), (("x", 2),)]),
    },
)
PHOTOS = st.frozensets(st.integers(0, len(EMBEDDINGS) - 1), max_size=MOST_PHOTOS)
CONDITIONS = st.sampled_from(
    [
        "none",
        "none",
        "none",
        "none",
        "none",
        "none",
        "is there",
        "is this",
        "is another",
        "is not there",
        "is not this",
        "is not another",
    ]
)


@st.composite
def wanted(draw: st.DrawFn) -> ModelClass:
    """A class as a client describes it: by attributes, by photos, or by both."""
    photos = draw(PHOTOS)
    attributes = draw(st.sampled_from([*ATTRIBUTES, None if photos else HUGE]))
    return replace(ModelClass(name="One", attributes=attributes, photos=photos), **draw(WORDS))


@st.composite
def edits(draw: st.DrawFn, kinds: Sequence[Kind] = get_args(Kind)) -> ModelEdit:
    kind = draw(st.sampled_from(kinds))
    class_id = draw(st.sampled_from(IDS))
    condition = "none" if kind == "create" else draw(CONDITIONS)
    if kind in ("create", "put"):
        return ModelEdit(kind=kind, class_id=class_id, wanted=draw(wanted()), condition=condition)
    if kind == "describe":
        return ModelEdit(kind=kind, class_id=class_id, words=draw(WORDS), condition=condition)
    photos = frozenset(draw(PHOTOS) or {0})
    photos = frozenset({min(photos)}) if kind == "take back" else photos
    return ModelEdit(kind=kind, class_id=class_id, photos=photos, condition=condition)
