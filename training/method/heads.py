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

from model.errors import DataError
from model.head import Float32, HeadKind, logits
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from model.noise import class_noise
from training.datasets.dataset import Task
from training.method.trainer import Networks

LDA: HeadKind = "lda"
"""The served head, in results and files."""


class HeadFitError(DataError):
    """Embeddings that no head can be fitted with."""


@dataclass(frozen=True, kw_only=True)
class HeadChoice:
    """How the served head is regularised.

    Attributes:
        shrinkage: of the within-class covariance.
        unseen_scale: by which the scores of described classes are multiplied.
    """

    shrinkage: float
    unseen_scale: float = 1.0

    @property
    def name(self) -> str:
        """As in results, `lda/0.3`, or `lda/0.3/1.25` with a scale other than 1."""
        scale = "" if self.unseen_scale == 1 else f"/{self.unseen_scale}"
        return f"{LDA}/{self.shrinkage}{scale}"

    @classmethod
    def named(cls, name: str) -> HeadChoice:
        """The choice of a name."""
        _, shrinkage, *scale = name.split("/")
        return cls(shrinkage=float(shrinkage), unseen_scale=float(scale[0]) if scale else 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadFit:
    """A head with its rows.

    Attributes:
        head: grows by a class, which is described.
        centre: mean of the seen classes' mean embeddings, subtracted before anything else, float32 [Z].
        weight: float32 [C, Z].
        bias: float32 [C].
        means: centred mean embedding of each class that the rows were made from, float64 [C, Z].
    """

    head: LdaHead
    centre: Float32
    means: NDArray[np.float64]
    weight: Float32
    bias: Float32

    def logits(self, z_NZ: ArrayLike) -> Float32:
        """Scores of embeddings that are not centred yet, float32 [N, C]."""
        return logits(np.asarray(z_NZ, dtype=np.float32) - self.centre, self.weight, self.bias)

    def products(self, z_NZ: Float32, others_MZ: Float32) -> Float32:
        """z^T S^-1 z' of embeddings that are not centred yet, float32 [N, ...] for others [..., Z]."""
        flat = others_MZ.reshape(-1, others_MZ.shape[-1]) - self.centre
        weight, _ = self.head.rows(flat)
        products = np.asarray((z_NZ - self.centre) @ weight.T, dtype=np.float32)
        return products.reshape(len(z_NZ), *others_MZ.shape[:-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadRows:
    """What heads are fitted on.

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
        means -= self.centre
        covariance = within_class_covariance(self.z - self.centre, (np.cumsum(self.seen) - 1)[self.labels])
        fits = []
        for choice in choices:
            try:
                head = LdaHead(shrunk_cholesky(covariance, choice.shrinkage))
            except ValueError as error:
                raise HeadFitError(f"no head can be fitted on the embeddings of the training images: {error}") from None
            weight, bias = head.rows(means)
            if choice.unseen_scale != 1:
                head = head.scaled(choice.unseen_scale)
                weight[~self.seen], bias[~self.seen] = head.rows(means[~self.seen])
            fits.append(HeadFit(head=head, centre=self.centre, means=means, weight=weight, bias=bias))
        return fits


def fit_head(
    networks: Networks,
    task: Task,
    names: Sequence[str],
    choice: HeadChoice,
    *,
    samples: int,
    key: str,
) -> HeadFit:
    """Fit one head on a task's real rows and the generator's unseen classes; see :func:`fit_heads`."""
    (head,) = fit_heads(networks, task, names, [choice], samples=samples, key=key)
    return head


def fit_heads(
    networks: Networks,
    task: Task,
    names: Sequence[str],
    choices: Sequence[HeadChoice],
    *,
    samples: int,
    key: str,
) -> list[HeadFit]:
    """Fit a head for each choice, in their order; embeddings are computed once.

    Args:
        networks: trained.
        task: the rows and classes it was trained on.
        names: id of each class; with `key` it decides the noise.
        choices: shrinkages and scales.
        samples: synthesised embeddings per unseen class.
        key: id of what the heads belong to.

    Raises:
        HeadFitError: as :meth:`HeadRows.lda`.
    """
    rows = HeadRows.of(networks, task)
    synthetic = {
        index: synthesise(networks, task.attributes[index], key, names[index], samples)
        for index in np.flatnonzero(~rows.seen).tolist()
    }
    return rows.lda(synthetic, choices)


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
