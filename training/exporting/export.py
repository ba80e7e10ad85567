"""From a run directory to a bundle: two graphs, the head's rows, calibration, results."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model import __version__
from model.bundle import SYNTHESIZER, TRUNK, check_writable, sha256_bytes, sha256_of, write_bundle
from model.errors import DataError
from model.guards.graphs import check_graph, read_graph
from model.head import Float32, HeadSpec
from model.manifest import Example, Manifest, bundle_id
from model.synthesis import class_embeddings
from training.datasets.dataset import Dataset
from training.evaluation import evaluate, run_task
from training.exporting.graphs import SynthesizerGraph, TrunkTail, synthesizer_graph, trunk_graph
from training.features.text_encoder import load_text_encoder
from training.method.heads import LDA, HeadChoice, HeadFit, HeadRows
from training.method.novelty import TEACHER, Familiarity
from training.onnx_files import open_session
from training.runs.contents import Trained

if TYPE_CHECKING:
    from training.exporting.int8_export import Int8Export


def export(
    dataset: Dataset,
    trained: Trained,
    out: Path,
    *,
    examples: Mapping[Example, bytes] | None = None,
    int8: Int8Export | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the bundle of a run.

    Args:
        dataset: the data the run was trained on.
        trained: the run.
        out: bundle directory.
        examples: images that come with the bundle.
        int8: how to bring the trunk's backbone to int8; float32 without it.
        overwrite: replace an existing bundle.

    Returns:
        Bundle id and the results of the served head, as JSON values.

    Raises:
        BundleError: a graph differs from torch, or `out` exists.
        DataError: the features have no backbone to serve with, or it is another one now; or int8 is too inaccurate.

    Example:
        >>> from model import Bundle
        >>> from training import Trained, export, open_data
        >>> dataset, _ = open_data(FEATURES)
        >>> written = export(dataset, Trained.load(FINISHED_RUN), OUT / "bundle")
        >>> Bundle.load(OUT / "bundle").manifest.bundle_id == written["bundle_id"]
        True
    """
    check_writable(out, overwrite=overwrite)
    source = dataset.backbone
    if source is None:
        raise DataError(
            "these features come without a backbone, so no image can be served; train on images of your own to export"
        )
    if (found := sha256_of(source.path)) != source.description.fingerprint:
        raise DataError(
            f"{source.path}: expected the backbone that made the features, sha256 {source.description.fingerprint}, "
            f"got {found}"
        )
    networks, selected = trained.networks, trained.selected
    student, generator = networks.student, networks.generator
    rows = HeadRows.of(networks, run_task(dataset, trained))
    spec = _spec(rows, trained)
    (of_seen,) = rows.lda({}, [HeadChoice(shrinkage=spec.shrinkage, unseen_scale=spec.unseen_scale)])
    tail = TrunkTail(
        scaler=trained.scaler,
        embedding=copy.deepcopy(student.embedding),
        teacher=copy.deepcopy(networks.teacher),
        centre=rows.centre,
        novelty=None if selected.novelty in (None, TEACHER) else Familiarity(selected.novelty, of_seen, dataset.seen),
    )
    synthesizer = SynthesizerGraph(
        generator=copy.deepcopy(generator), embedding=copy.deepcopy(student.embedding), centre=rows.centre
    )
    trunk = trunk_graph(source.path, tail, feature_dim=source.description.feature_dim, side=source.spec.size)
    exact, trunk = trunk, trunk if int8 is None else int8.trunk(dataset, source, tail)
    synthesis = synthesizer_graph(
        synthesizer, noise_dim=generator.noise_dim, attribute_dim=dataset.vocabulary.dimension
    )
    for name, graph in ((TRUNK, trunk), (SYNTHESIZER, synthesis)):
        check_graph(read_graph(graph, name), name)  # as the service does before it loads them
    encoder = None
    if dataset.text_encoder is not None:
        encoder = load_text_encoder(dataset.text_encoder.path, identity=dataset.text_encoder.identity).files
    identity = bundle_id(
        sha256_bytes(trunk),
        sha256_bytes(synthesis),
        dataset.vocabulary,
        spec,
        encoder=encoder.identity if encoder else None,
    )
    session = open_session(synthesis)

    def run(noise: Float32, attributes: Float32) -> Float32:
        z: Float32 = session.run(["embedding"], {"noise": noise, "attributes": attributes})[0]
        return z

    synthetic: dict[int, Float32] = {}
    for index in np.flatnonzero(~dataset.seen).tolist():
        entry = dataset.classes[index]
        synthetic[index] = class_embeddings(
            run,
            bundle_id=identity,
            class_id=entry.id,
            attributes=dataset.vocabulary.vectors([entry])[0],
            vocabulary=dataset.vocabulary,
            head=spec,
        )
    order = np.argsort(~dataset.seen, kind="stable")  # seen classes first
    fitted = _with_described(of_seen, synthetic)
    metrics = _metrics(dataset, trained, fitted)
    if int8 is not None:
        trunks = {"fp32": exact, "int8": trunk}
        metrics["int8"] = int8.compare(
            dataset, trained, trunks, centre=rows.centre, weight=fitted.weight, bias=fitted.bias
        )
    written = write_bundle(
        out,
        trunk=trunk,
        synthesizer=synthesis,
        preprocess=source.spec,
        backbone=source.description,
        vocabulary=dataset.vocabulary,
        classes=tuple(dataset.classes[i] for i in order.tolist()),
        head_spec=spec,
        head=fitted.head,
        weight=fitted.weight[order],
        bias=fitted.bias[order],
        novelty=selected.novelty,
        novelty_reference=trained.novelty_reference,
        calibration=selected.calibration,
        metrics=metrics,
        training=_public(trained.resolved()),
        examples=examples,
        text_encoder=encoder,
        overwrite=overwrite,
    )
    return {"bundle_id": written, "metrics": metrics}


def is_bundle_of(manifest: Manifest, dataset: Dataset, trained: Trained) -> bool:
    """Whether a bundle was exported from this very run with this data, its descriptions of attributes included."""
    return (
        manifest.training == json.loads(json.dumps(_public(trained.resolved())))
        and manifest.vocabulary.to_json() == json.loads(json.dumps(dataset.vocabulary.to_json()))
        and manifest.code_version == __version__
    )


def _spec(rows: HeadRows, trained: Trained) -> HeadSpec:
    """The head that a run's bundle has; no synthesised row enters it, as their noise is keyed by it."""
    head = trained.selected.head
    return HeadSpec(
        kind=LDA,
        dimension=len(rows.centre),
        samples=trained.config.selection.samples,
        noise_dimension=trained.networks.generator.noise_dim,
        noise_form="matched",
        shrinkage=head.shrinkage,
        unseen_scale=head.unseen_scale,
        photos=trained.selected.photos,
    )


def _with_described(fitted: HeadFit, synthetic: Mapping[int, Float32]) -> HeadFit:
    """The head with rows in the data set's order; those of described classes as the service would make them."""
    weight, bias = fitted.weight.copy(), fitted.bias.copy()
    for index, z in synthetic.items():
        row = fitted.head.row(z)
        weight[index], bias[index] = row.weight, row.bias
    return replace(fitted, weight=weight, bias=bias)


def _metrics(dataset: Dataset, trained: Trained, fitted: HeadFit) -> dict[str, Any]:
    """The run's results, those of the served head measured with the very rows that the bundle holds."""
    if not dataset.testable:
        return {"validation": {k: v for k, v in trained.selected.validation.items() if k != "candidates"}}
    return evaluate(dataset, trained, head=fitted, with_softmax=False)


def _public(resolved: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration without paths of the machine it ran on."""
    data = {key: value for key, value in resolved["data"].items() if key != "path"}
    return {**resolved, "data": data}
