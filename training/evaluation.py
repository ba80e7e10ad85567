"""Results on the test rows, for each form of the head and for the student's own classifier, with their protocol.

N: test rows, C: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.calibration import Calibration, novelty, softmax
from model.head import Float32, HeadKind
from training.datasets.dataset import Dataset, make_task
from training.method.heads import HeadFit, embed, fit_heads
from training.metrics import auroc, class_weights, evaluate, expected_calibration_error, per_class_accuracy
from training.runs.contents import Trained
from training.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class TestRows:
    """What the trained networks say of the test rows.

    Attributes:
        labels: int64 [N].
        embeddings: E_s, not centred, float32 [N, Z].
        student_logits: C_s, float32 [N, C].
        teacher_scores: float32 [N].
    """

    __test__ = False  # not a pytest class

    labels: NDArray[np.int64]
    embeddings: Float32
    student_logits: Float32
    teacher_scores: Float32

    @classmethod
    @torch.no_grad()
    def of(cls, dataset: Dataset, trained: Trained) -> TestRows:
        """Run the networks over the test rows."""
        networks = trained.networks
        device = next(networks.student.parameters()).device
        features = torch.from_numpy(trained.scaler.apply(dataset.features[dataset.test])).to(device)
        return cls(
            labels=dataset.labels[dataset.test],
            embeddings=embed(networks, features),
            student_logits=networks.student(features)[1].cpu().numpy(),
            teacher_scores=networks.teacher.score(features).cpu().numpy(),
        )


def fit_chosen_heads(dataset: Dataset, trained: Trained, *, key: str) -> dict[HeadKind, HeadFit]:
    """The best head of each form that was measured, over all classes of a run, its noise keyed by `key`."""
    chosen = {kind: best.choice for kind, best in trained.selected.heads.items()}
    task = run_task(dataset, trained)
    names, samples = [c.id for c in dataset.classes], trained.config.selection.samples
    heads = fit_heads(trained.networks, task, names, list(chosen.values()), samples=samples, key=key)
    return dict(zip(chosen, heads, strict=True))


def run_task(dataset: Dataset, trained: Trained) -> Task:
    """What the final training of a run knew."""
    device = next(trained.networks.student.parameters()).device
    return make_task(dataset, dataset.trainval, np.arange(len(dataset.classes)), trained.scaler, device)


def evaluate_run(
    dataset: Dataset,
    trained: Trained,
    *,
    heads: Mapping[HeadKind, HeadFit] | None = None,
    rows: TestRows | None = None,
) -> dict[str, Any]:
    """Every result of a run as JSON values.

    Args:
        dataset: the data the run was trained on.
        trained: the run.
        heads: the very heads to measure, as a bundle holds its own; without them the best of each form that was
            measured are fitted, their noise keyed by the run.
        rows: what the networks say of the test rows; without it they are run.

    Raises:
        DataError: there are no test rows of seen or of unseen classes.
    """
    dataset.require_testable()
    rows = rows or TestRows.of(dataset, trained)
    heads = heads or fit_chosen_heads(dataset, trained, key=run_key(trained))
    selected = trained.selected
    return {
        "protocol": protocol(dataset, trained),
        "unseen_classes": [c.id for c in dataset.classes if c.kind == "unseen"],
        "served": selected.kind,
        **{
            kind: results(dataset, rows, head.logits(rows.embeddings), selected.heads[kind].calibration)
            for kind, head in heads.items()
        },
        "student": results(dataset, rows, rows.student_logits, selected.student),
        "novelty": novelty_results(dataset, trained, rows),
        "validation": {k: v for k, v in selected.validation.items() if k != "candidates"},
    }


def results(dataset: Dataset, rows: TestRows, logits_NC: Float32, calibration: Calibration) -> dict[str, Any]:
    """U, S, H, T1, AUSUC, calibration and the accuracy of each class that has test rows.

    `ece` counts every row the same, as published; `ece_balanced` every class, as U and S do and as the temperature was
    fitted. `uncalibrated` is without a seen penalty, as papers report a student's own classifier.
    """
    scores = calibration.scores(logits_NC, dataset.seen)
    plain = evaluate(logits_NC, rows.labels, dataset.seen)
    probabilities = softmax(scores)
    accuracy = per_class_accuracy(scores.argmax(axis=1), rows.labels, len(dataset.classes))
    return {
        **evaluate(scores, rows.labels, dataset.seen).to_json(),
        "ece": expected_calibration_error(probabilities, rows.labels),
        "ece_balanced": expected_calibration_error(probabilities, rows.labels, weights_N=class_weights(rows.labels)),
        **calibration.to_json(),
        "uncalibrated": {"U": plain.U, "S": plain.S, "H": plain.H},
        "per_class": {
            entry.id: float(value) for entry, value in zip(dataset.classes, accuracy, strict=True) if np.isfinite(value)
        },
    }


def novelty_results(dataset: Dataset, trained: Trained, rows: TestRows) -> dict[str, Any]:
    """AUROC of `novelty` for unseen against seen test rows."""
    seen = dataset.seen[rows.labels]
    values = novelty(rows.teacher_scores, trained.novelty_reference)
    return {
        "auroc": auroc(values[~seen], values[seen]),
        "seen_rows": int(seen.sum()),
        "unseen_rows": int((~seen).sum()),
    }


def protocol(dataset: Dataset, trained: Trained) -> dict[str, Any]:
    """How the numbers came about."""
    test_seen = dataset.seen[dataset.labels[dataset.test]]
    selection = trained.selected.validation["protocol"]
    name = selection.partition(":")[0]
    return {
        "name": name,
        "selection": selection,
        "test_used_for_selection": name != "validation",
        "metric": "mean per-class top-1 over all classes; H = 2US/(U+S); seen penalty "
        + ("from validation" if name == "validation" else "with the best test H"),
        "split": dataset.split,
        "seed": trained.config.seed,
        "data_hash": dataset.data_hash,
        "config_hash": run_key(trained),
        "commit": trained.data.get("commit"),
        "classes": {"seen": int(dataset.seen.sum()), "unseen": int((~dataset.seen).sum())},
        "rows": {
            "trainval": len(dataset.trainval),
            "test_seen": int(test_seen.sum()),
            "test_unseen": int((~test_seen).sum()),
        },
    }


def run_key(trained: Trained) -> str:
    """Hash of a run's configuration; keys the noise of evaluation, as the bundle id does in service."""
    return trained.config.digest()
