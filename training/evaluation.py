"""Results on the test rows, with their protocol: of the served head, the student's own classifier and plain softmax.

N: test rows, C: classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from model.calibration import Calibration, softmax
from model.head import Float32
from training.datasets.dataset import Dataset, Task, make_task
from training.method.heads import LDA, HeadFit, embed, fit_head, synthesise_features
from training.method.novelty import NOVELTY_SCORES
from training.metrics import class_weights, expected_calibration_error, gzsl_scores, per_class_accuracy
from training.runs.contents import Trained
from training.selection.novelty import all_familiarities, score_aurocs

SOFTMAX = "softmax"
SOFTMAX_EPOCHS, SOFTMAX_BATCH = 25, 256
UNCALIBRATED = Calibration(seen_penalty=0.0, temperature=1.0)
"""As papers report a softmax on synthesised features: no validation chooses a seen penalty for it."""


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


def fit_chosen_head(dataset: Dataset, trained: Trained, *, key: str) -> HeadFit:
    """The served head over all classes of a run, its noise keyed by `key`."""
    names, samples = [c.id for c in dataset.classes], trained.config.selection.samples
    return fit_head(
        trained.networks, run_task(dataset, trained), names, trained.selected.head, samples=samples, key=key
    )


def run_task(dataset: Dataset, trained: Trained) -> Task:
    """What the final training of a run knew."""
    device = next(trained.networks.student.parameters()).device
    return make_task(dataset, dataset.trainval, np.arange(len(dataset.classes)), trained.scaler, device)


def evaluate(
    dataset: Dataset,
    trained: Trained,
    *,
    head: HeadFit | None = None,
    rows: TestRows | None = None,
    with_softmax: bool = True,
) -> dict[str, Any]:
    """Every result of a run as JSON values: of the served head, the student's C_s, and the field's usual classifier.

    Args:
        dataset: the data the run was trained on.
        trained: the run.
        head: the very head to measure, as a bundle holds its own; without it the chosen one is fitted, its noise keyed
            by the run.
        rows: what the networks say of the test rows; without it they are run.
        with_softmax: train the field's usual classifier, too, to compare with.

    Raises:
        DataError: there are no test rows of seen or of unseen classes.

    Example:
        >>> from training import Trained, evaluate, open_data
        >>> dataset, _ = open_data(FEATURES)
        >>> results = evaluate(dataset, Trained.load(FINISHED_RUN))
        >>> results["served"], 0 <= results["lda"]["H"] <= 1, results["protocol"]["name"]
        ('lda', True, 'validation')
    """
    dataset.require_testable()
    rows = rows or TestRows.of(dataset, trained)
    softmax_row = results(dataset, rows, softmax_logits(dataset, trained), UNCALIBRATED) if with_softmax else None
    head = head or fit_chosen_head(dataset, trained, key=run_key(trained))
    selected = trained.selected
    return {
        "protocol": protocol(dataset, trained),
        "unseen_classes": [c.id for c in dataset.classes if c.kind == "unseen"],
        "served": LDA,
        LDA: results(dataset, rows, head.logits(rows.embeddings), selected.calibration),
        "student": results(dataset, rows, rows.student_logits, selected.student),
        **({SOFTMAX: softmax_row} if softmax_row else {}),
        "novelty": novelty_results(dataset, trained, rows, head),
        "validation": {k: v for k, v in selected.validation.items() if k != "candidates"},
    }


def softmax_logits(dataset: Dataset, trained: Trained) -> Float32:
    """Scores of the test rows by the field's usual classifier, float32 [N, C]; never exported.

    One linear layer with a softmax on real scaled features of seen classes and synthesised ones of unseen classes,
    trained as the final classifier of f-CLSWGAN is (Xian et al., CVPR 2018): Adam, learning rate 0.001, beta1 0.5.
    """
    task = run_task(dataset, trained)
    device, samples = task.features.device, trained.config.selection.samples
    unseen = task.unseen_index.tolist()
    synthetic = [
        synthesise_features(trained.networks, task.attributes[i], run_key(trained), dataset.classes[i].id, samples)
        for i in unseen
    ]
    features = torch.cat([task.features, *synthetic])
    labels = torch.cat([task.labels, task.unseen_index.repeat_interleave(samples)])
    test = torch.from_numpy(trained.scaler.apply(dataset.features[dataset.test])).to(device)
    return train_softmax(features, labels, test, len(dataset.classes), seed=trained.config.seed)


@torch.enable_grad()
def train_softmax(
    rows_ND: torch.Tensor, labels_N: torch.Tensor, test: torch.Tensor, classes: int, *, seed: int
) -> Float32:
    """Scores of test rows by a linear layer with a softmax, trained on rows of all classes, float32 [test rows, C]."""
    device = rows_ND.device
    random = torch.Generator(device=device).manual_seed(seed)
    weight = torch.zeros(classes, rows_ND.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(classes, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=1e-3, betas=(0.5, 0.999))
    for _ in range(SOFTMAX_EPOCHS):
        order = torch.randperm(len(labels_N), generator=random, device=device)
        for batch in torch.split(order, SOFTMAX_BATCH):
            loss = F.cross_entropy(F.linear(rows_ND[batch], weight, bias), labels_N[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        scores: Float32 = F.linear(test, weight, bias).cpu().numpy()
    return scores


def results(dataset: Dataset, rows: TestRows, logits_NC: Float32, calibration: Calibration) -> dict[str, Any]:
    """U, S, H, T1, AUSUC, calibration and the accuracy of each class that has test rows.

    `ece` counts every row the same, as published; `ece_balanced` every class, as U and S do and as the temperature was
    fitted. `uncalibrated` is without a seen penalty, as papers report a student's own classifier.
    """
    scores = calibration.scores(logits_NC, dataset.seen)
    plain = gzsl_scores(logits_NC, rows.labels, dataset.seen)
    probabilities = softmax(scores)
    accuracy = per_class_accuracy(scores.argmax(axis=1), rows.labels, len(dataset.classes))
    return {
        **gzsl_scores(scores, rows.labels, dataset.seen).to_json(),
        "ece": expected_calibration_error(probabilities, rows.labels),
        "ece_balanced": expected_calibration_error(probabilities, rows.labels, weights_N=class_weights(rows.labels)),
        **calibration.to_json(),
        "uncalibrated": {"U": plain.U, "S": plain.S, "H": plain.H},
        "per_class": {
            entry.id: float(value) for entry, value in zip(dataset.classes, accuracy, strict=True) if np.isfinite(value)
        },
    }


def novelty_results(dataset: Dataset, trained: Trained, rows: TestRows, head: HeadFit) -> dict[str, Any]:
    """Mean AUROC over unseen classes, each against the seen classes' test rows: of `novelty`, and of every score.

    `score` and `auroc` are those of the score that is served, null where none is.
    """
    seen = dataset.seen[rows.labels]
    familiarities = all_familiarities(head, dataset.seen, rows.embeddings, rows.teacher_scores)
    aurocs = np.nanmean(score_aurocs(familiarities, rows.labels, dataset.seen), axis=1)
    of_score = dict(zip(NOVELTY_SCORES, aurocs.tolist(), strict=True))
    score = trained.selected.novelty
    return {
        "score": score,
        "auroc": score and of_score[score],
        "aurocs": of_score,
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
