"""From attributes to embeddings: what the synthesizer is given, and what is refused."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from model.errors import AttributesError
from model.head import HeadSpec
from model.noise import class_noise
from model.synthesis import class_embeddings
from model.vocabulary import Vocabulary
from tests.model import tiny

HEAD = HeadSpec(kind="lda", dimension=2, samples=7, noise_dimension=3, shrinkage=0.1)
WORDS = Vocabulary.from_classes(["a", "b"], [[0, 10], [10, 30]], offset=5, scale=10, unit_length=False)


def run(synthesizer, class_id: str = "zebra", attributes=(10.0, 5.0)) -> NDArray[np.float32]:
    return class_embeddings(
        synthesizer, bundle_id="bundle", class_id=class_id, attributes=attributes, vocabulary=WORDS, head=HEAD
    )


def test_the_synthesizer_gets_the_class_noise_and_normalised_attributes() -> None:
    given = []

    def synthesizer(noise: NDArray[np.float32], attributes: NDArray[np.float32]) -> NDArray[np.float32]:
        given.append((noise, attributes))
        return noise[:, :2] + attributes

    embeddings = run(synthesizer)
    ((noise, attributes),) = given
    np.testing.assert_array_equal(noise, class_noise("bundle", "zebra", 7, 3))
    np.testing.assert_array_equal(attributes, np.tile(np.array([0.5, 0.0], np.float32), (7, 1)))
    assert attributes.dtype == noise.dtype == np.float32
    assert attributes.flags.c_contiguous
    np.testing.assert_array_equal(embeddings, noise[:, :2] + attributes)


def test_the_noise_is_the_classes_own() -> None:
    def synthesizer(noise: NDArray[np.float32], attributes: NDArray[np.float32]) -> NDArray[np.float32]:
        return noise

    np.testing.assert_array_equal(run(synthesizer), run(synthesizer, attributes=(1, 2)))
    assert not np.array_equal(run(synthesizer), run(synthesizer, class_id="horse"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_refused(value: float) -> None:
    def synthesizer(noise: NDArray[np.float32], attributes: NDArray[np.float32]) -> NDArray[np.float32]:
        z = noise[:, :2].copy()
        z[3, 1] = value
        return z

    with pytest.raises(AttributesError, match=r"/attributes: expected values near the vocabulary's ranges"):
        run(synthesizer)


def test_a_real_graph_gives_the_row_that_the_bundle_was_written_with() -> None:
    session = onnxruntime.InferenceSession(tiny.synthesizer(), providers=["CPUExecutionProvider"])

    def synthesizer(noise: NDArray[np.float32], attributes: NDArray[np.float32]) -> NDArray[np.float32]:
        return session.run(None, {"noise": noise, "attributes": attributes})[0]

    given = tiny.contents()
    violet = tiny.CLASSES[3]
    z = class_embeddings(
        synthesizer,
        bundle_id="any",
        class_id=violet.id,
        attributes=violet.attributes,
        vocabulary=given["vocabulary"],
        head=given["head_spec"],
    )
    assert z.shape == (20, tiny.DIMENSION)
    row = given["head"].row(z)
    # The written row is that of the noiseless mean; 20 samples with a tenth of the noise lie close to it.
    np.testing.assert_allclose(row.weight, given["weight"][3], atol=0.15 * np.abs(given["weight"]).max())
