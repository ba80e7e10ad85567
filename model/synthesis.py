"""From what describes a class to its embeddings, as export, service and tests all compute them.

C: classes, N: samples, K: noise dimension, A: numbers that describe a class, Z: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from model.errors import AttributesError, Problem
from model.head import Float32, HeadSpec
from model.vocabulary import Vocabulary

Synthesizer = Callable[[Float32, Float32], Float32]
"""Noise [N, K] and normalised attributes [N, A] to embeddings [N, Z]."""


def class_embeddings(
    synthesizer: Synthesizer,
    *,
    bundle_id: str,
    class_id: str,
    attributes: ArrayLike,
    vocabulary: Vocabulary,
    head: HeadSpec,
) -> Float32:
    """Synthesised embeddings of a class; the same for the same bundle, id and attributes.

    Args:
        synthesizer: runs `synthesizer.onnx`.
        bundle_id: id of the bundle; with `class_id` the key of the noise.
        class_id: id of the class.
        attributes: A numbers as :meth:`model.vocabulary.Vocabulary.vectors` gives them.
        vocabulary: of the bundle.
        head: of the bundle; gives the number of samples.

    Returns:
        float32 [N, Z].

    Raises:
        AttributesError: the networks give no finite embedding for these attributes.
    """
    embeddings: Float32 = many_class_embeddings(
        synthesizer, bundle_id=bundle_id, classes=[(class_id, attributes)], vocabulary=vocabulary, head=head
    )[0]
    if not np.isfinite(embeddings).all():
        raise AttributesError(
            "no class can be made from these attributes",
            [
                Problem(
                    pointer="/attributes", detail="expected values near the vocabulary's ranges, got far larger ones"
                )
            ],
        )
    return embeddings


def many_class_embeddings(
    synthesizer: Synthesizer,
    *,
    bundle_id: str,
    classes: Sequence[tuple[str, ArrayLike]],
    vocabulary: Vocabulary,
    head: HeadSpec,
) -> Float32:
    """Synthesised embeddings of C classes in one call of the networks; of each what it would have alone.

    Args:
        synthesizer: runs `synthesizer.onnx`.
        bundle_id: id of the bundle; with a class's id the key of its noise.
        classes: ids with A numbers each, at least one.
        vocabulary: of the bundle.
        head: of the bundle; gives the number of samples.

    Returns:
        float32 [C, N, Z]; not finite where the networks give nothing for a class.
    """
    noise, described = synthesizer_inputs(bundle_id=bundle_id, classes=classes, vocabulary=vocabulary, head=head)
    return synthesizer(noise, described).reshape(len(classes), head.samples, -1)


def synthesizer_inputs(
    *, bundle_id: str, classes: Sequence[tuple[str, ArrayLike]], vocabulary: Vocabulary, head: HeadSpec
) -> tuple[Float32, Float32]:
    """What the networks are given for C classes: noise float32 [C N, K] and normalised attributes float32 [C N, A]."""
    noise = [head.noise(bundle_id, class_id) for class_id, _ in classes]
    described = vocabulary.normalise([np.asarray(attributes) for _, attributes in classes])
    return np.concatenate(noise), np.repeat(described, head.samples, axis=0)
