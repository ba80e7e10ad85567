"""The demo's classes: what unseen means, and that descriptions hold for the drawings."""

from __future__ import annotations

import numpy as np
import pytest

from training.demo.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    EXTRA,
    SEEN,
    SIZES,
    UNSEEN,
    VisualClass,
    attribute_matrix,
    parse_class,
)

EVERY = (*SEEN, *UNSEEN, *EXTRA)
FIXED = ("shape", "colour", "texture")
FACTORS = (*FIXED, "count", "size", "background", "outlined", "framed")


def looks(kind: VisualClass) -> tuple[str, ...]:
    return tuple(getattr(kind, factor) for factor in FIXED)


def test_there_are_enough_classes_and_no_two_share_an_id_or_a_description():
    assert len(SEEN) >= 40
    assert len(UNSEEN) >= 12
    assert len(EXTRA) >= 6
    assert len({kind.id for kind in EVERY}) == len({kind.description for kind in EVERY}) == len(EVERY)
    assert len(np.unique(attribute_matrix(EVERY), axis=0)) == len(EVERY)


def test_every_attribute_varies_over_the_seen_classes_and_stays_on_its_scale():
    attributes = attribute_matrix(SEEN)
    assert attributes.shape == (len(SEEN), len(ATTRIBUTES))
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES)
    assert (np.ptp(attributes, axis=0) >= 0.3).all()
    assert attributes.min() >= 0
    assert attributes.max() <= 1


@pytest.mark.parametrize("kind", [*UNSEEN, *EXTRA], ids=lambda kind: kind.id)
def test_a_class_without_training_images_is_a_new_combination_of_known_values(kind):
    assert looks(kind) not in {looks(seen) for seen in SEEN}
    for factor in FACTORS:
        sharing = [seen.id for seen in SEEN if getattr(seen, factor) == getattr(kind, factor)]
        assert len(sharing) >= 5, (factor, sharing)
    for a, b in (("shape", "colour"), ("shape", "texture"), ("colour", "texture")):
        assert any(getattr(s, a) == getattr(kind, a) and getattr(s, b) == getattr(kind, b) for s in SEEN), (a, b)


def test_no_attribute_of_the_seen_classes_stands_in_for_one_of_another_factor():
    """Otherwise a network could read one off the other, and fail where an unseen class separates them."""
    attributes = attribute_matrix(SEEN)
    factor = [name.partition("_")[0] for name in ATTRIBUTES]
    factor = [{"pointed": "shape", "rounded": "shape", "warm": "colour"}.get(name, name) for name in factor]
    across = np.not_equal.outer(factor, factor)
    assert np.abs(np.corrcoef(attributes.T))[across].max() < 0.35


@pytest.mark.parametrize("kind", [SEEN[0], UNSEEN[0], EXTRA[0]], ids=lambda kind: kind.id)
def test_class_attributes_are_the_mean_of_what_its_drawings_show(kind):
    rng = np.random.default_rng(0)
    shown = np.mean([kind.scene(rng).attributes() for _ in range(4000)], axis=0)
    np.testing.assert_allclose(shown, kind.attributes(), atol=0.03)


def test_a_line_of_the_table_is_read_in_full():
    kind = parse_class("two large red striped star, waves outlined")
    assert kind == VisualClass(
        shape="star", colour="red", texture="striped", count="two", size="large", background="waves", outlined=True
    )
    assert kind.id == "red-striped-star"
    assert kind.description == "Red striped star; mostly two, large, on waves, outlined, no frame."
    values = dict(zip(ATTRIBUTES, kind.attributes(), strict=True))
    assert values["shape_star"] == values["colour_red"] == values["texture_striped"] == values["pointed"] == 1
    assert values["count_two"] == 0.7
    assert values["size"] == SIZES["large"]
    assert sum(values[f"background_{name}"] for name in BACKGROUNDS) == pytest.approx(1)
    assert values["outlined"] == pytest.approx(1 - values["framed"])


@pytest.mark.parametrize("line", ["two large red striped blob, waves", "two large red striped star, waves shiny"])
def test_a_line_with_an_unknown_word_is_refused(line):
    with pytest.raises(ValueError, match=r"blob|shiny"):
        parse_class(line)
