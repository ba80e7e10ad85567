"""The served head fitted on a student's embeddings: real ones of seen classes, synthesised ones of unseen classes.

N: rows, Z: embedding, C: classes, M: synthesised rows of a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from model.errors import ConvergenceError, DataError, TooManyClassesError
from model.head import Float32, Head, HeadKind, logits
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from model.noise import class_noise
from model.softmax import TOLERANCE, SoftmaxHead, rows_per_class
from training.method.trainer import Networks
from training.task import Task


class HeadFitError(DataError):
    """Embeddings, or a strength, that no head can be fitted with."""


@dataclass(frozen=True, kw_only=True)
class HeadChoice:
    """A form of the head and how strongly it is regularised.

    Attributes:
        kind: form of the head.
        strength: shrinkage of `lda`; of `softmax` the penalty relative to the mean squared length of real embeddings.
        unseen_scale: by which the scores of described classes are multiplied; 1 for `softmax`.
    """

    kind: HeadKind
    strength: float
    unseen_scale: float = 1.0

    @property
    def name(self) -> str:
        """As in results, `lda/0.3`, or `lda/0.3/1.25` with a scale other than 1."""
        scale = "" if self.unseen_scale == 1 else f"/{self.unseen_scale}"
        return f"{self.kind}/{self.strength}{scale}"

    @classmethod
    def named(cls, name: str) -> HeadChoice:
        """The choice of a name."""
        kind, strength, *scale = name.split("/")
        return cls(
            kind="softmax" if kind == "softmax" else "lda",
            strength=float(strength),
            unseen_scale=float(scale[0]) if scale else 1.0,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadFit:
    """A head with its rows.

    Attributes:
        head: grows by a class, which is described.
        centre: mean of the seen classes' mean embeddings, subtracted before anything else, float32 [Z].
        weight: float32 [C, Z].
        bias: float32 [C].
    """

    head: Head
    centre: Float32
    weight: Float32
    bias: Float32

    def logits(self, z_NZ: ArrayLike) -> Float32:
        """Scores of embeddings that are not centred yet, float32 [N, C]."""
        return logits(np.asarray(z_NZ, dtype=np.float32) - self.centre, self.weight, self.bias)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadRows:
    """What heads are fitted on, whatever their form.

    Attributes:
        z: embeddings of real rows, not centred, float32 [N, Z].
        labels: class of each, int64 [N].
        seen: which classes have real rows, bool [C].
    """

    z: Float32
    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, networks: Networks, task: Task) -> HeadRows:
        """The rows of a task."""
        return cls(z=embed(networks, task.features), labels=task.labels.cpu().numpy(), seen=task.seen.cpu().numpy())

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """Mean embedding of each class, zeros of those without rows, float64 [C, Z]."""
        means = np.zeros((len(self.seen), self.z.shape[1]))
        real, _ = class_means(self.z.astype(np.float64), self.labels)
        means[: len(real)] = real
        return means

    @cached_property
    def centre(self) -> Float32:
        """Mean of the seen classes' means, float32 [Z]."""
        centre: Float32 = self.means[self.seen].mean(axis=0).astype(np.float32)
        return centre

    def penalty(self, relative: float) -> float:
        """A penalty relative to the mean squared length of centred real embeddings, in which classes weigh the same."""
        squares = np.square(self.z - self.centre).sum(axis=1, dtype=np.float64)
        of_class = np.bincount(self.labels, weights=squares) / np.maximum(np.bincount(self.labels), 1)
        return float(relative * of_class[self.seen[: len(of_class)]].mean())

    def most(self, samples: int) -> int:
        """Synthesised rows of each class that the bank of a `softmax` head has room for, at most `samples`.

        Raises:
            DataError: it has no room for these classes.
        """
        return min(samples, rows_per_class(len(self.seen), self.z.shape[1]))

    def lda(self, synthetic: Mapping[int, Float32], choices: Sequence[HeadChoice]) -> list[HeadFit]:
        """An `lda` head for each choice; means and covariance are computed once.

        Args:
            synthetic: embeddings of each class without real rows, not centred, float32 [M, Z].
            choices: shrinkage of the covariance, and scale of the scores of classes without real rows.

        Raises:
            HeadFitError: the embeddings of each class are all the same.
        """
        means = self.means.copy()
        for index, z in synthetic.items():
            means[index] = z.mean(0, dtype=np.float64)
        covariance = within_class_covariance(self.z - self.centre, (np.cumsum(self.seen) - 1)[self.labels])
        fits = []
        for choice in choices:
            try:
                head = LdaHead(shrunk_cholesky(covariance, choice.strength))
            except ValueError as error:
                raise HeadFitError(f"no head can be fitted on the embeddings of the training images: {error}") from None
            weight, bias = head.rows(means - self.centre)
            if choice.unseen_scale != 1:
                head = head.scaled(choice.unseen_scale)
                weight[~self.seen], bias[~self.seen] = head.rows(means[~self.seen] - self.centre)
            fits.append(HeadFit(head=head, centre=self.centre, weight=weight, bias=bias))
        return fits

    def softmax(
        self, synthetic: Mapping[int, Float32], penalties: Sequence[float], *, tolerance: float = TOLERANCE
    ) -> list[HeadFit]:
        """A `softmax` head for each relative penalty, on the rows that the bank of a bundle would hold.

        The strongest penalty is solved first, and each solution starts the next.

        Args:
            synthetic: as in :meth:`lda`.
            penalties: relative, see :meth:`penalty`.
            tolerance: relative distance to the exact weights.

        Raises:
            DataError: the bank has no room for these classes, or there are more than the head takes.
            HeadFitError: an embedding does not fit float16, or a penalty is too small for the numbers.
        """
        made = {index: z[: self.most(len(z))] for index, z in synthetic.items()}
        z = np.concatenate([self.z, *made.values()]) - self.centre
        labels = np.concatenate([self.labels, *(np.full(len(rows), index) for index, rows in made.items())])
        heads: dict[float, SoftmaxHead] = {}
        start = None
        for relative in sorted(set(penalties), reverse=True):
            try:
                start = SoftmaxHead.fit(z, labels, penalty=self.penalty(relative), tolerance=tolerance, start=start)
            except TooManyClassesError:
                raise
            except (DataError, ConvergenceError) as error:
                raise HeadFitError(f"no softmax head can be fitted with the penalty {relative:g}: {error}") from None
            heads[relative] = start
        return [
            HeadFit(head=head, centre=self.centre, weight=head.weight, bias=head.bias)
            for head in (heads[relative] for relative in penalties)
        ]


def fit_head(
    networks: Networks,
    task: Task,
    names: Sequence[str],
    choice: HeadChoice,
    *,
    samples: int,
    key: str,
    tolerance: float = TOLERANCE,
) -> HeadFit:
    """Fit one head on a task's real rows and the generator's unseen classes; see :func:`fit_heads`."""
    (head,) = fit_heads(networks, task, names, [choice], samples=samples, key=key, tolerance=tolerance)
    return head


def fit_heads(
    networks: Networks,
    task: Task,
    names: Sequence[str],
    choices: Sequence[HeadChoice],
    *,
    samples: int,
    key: str,
    tolerance: float = TOLERANCE,
) -> list[HeadFit]:
    """Fit a head for each choice, in their order; embeddings are computed once.

    Args:
        networks: trained.
        task: the rows and classes it was trained on.
        names: id of each class; with `key` it decides the noise.
        choices: forms and strengths.
        samples: synthesised embeddings per unseen class; `softmax` takes as many of them as a bundle has room for.
        key: id of what the heads belong to.
        tolerance: of `softmax`.

    Raises:
        DataError: as :meth:`HeadRows.lda` and :meth:`HeadRows.softmax`.
    """
    rows = HeadRows.of(networks, task)
    synthetic = {
        index: synthesise(networks, task.attributes[index], key, names[index], samples)
        for index in np.flatnonzero(~rows.seen).tolist()
    }
    of_lda = [choice for choice in choices if choice.kind == "lda"]
    penalties = [choice.strength for choice in choices if choice.kind == "softmax"]
    lda = iter(rows.lda(synthetic, of_lda) if of_lda else [])
    softmax = iter(rows.softmax(synthetic, penalties, tolerance=tolerance) if penalties else [])
    return [next(lda) if choice.kind == "lda" else next(softmax) for choice in choices]


@torch.no_grad()
def embed(networks: Networks, features_ND: torch.Tensor) -> NDArray[np.float32]:
    """E_s of scaled features, float32 [N, Z]."""
    z: NDArray[np.float32] = networks.student.embedding(features_ND).cpu().numpy()
    return z


@torch.no_grad()
def synthesise(
    networks: Networks, attributes_A: torch.Tensor, key: str, class_id: str, samples: int
) -> NDArray[np.float32]:
    """Embeddings of a class from its normalised attributes, float32 [samples, Z]."""
    return embed(networks, synthesise_features(networks, attributes_A, key, class_id, samples))


@torch.no_grad()
def synthesise_features(
    networks: Networks, attributes_A: torch.Tensor, key: str, class_id: str, samples: int
) -> torch.Tensor:
    """Scaled features of a class from its normalised attributes, on their device, float32 [samples, D]."""
    generator = networks.generator
    noise = torch.from_numpy(class_noise(key, class_id, samples, generator.noise_dim, form="matched")).to(
        attributes_A.device
    )
    features: torch.Tensor = generator(noise, attributes_A.expand(samples, -1))
    return features
