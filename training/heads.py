"""The served head fitted on a student's embeddings: real means for seen classes, synthesised ones for unseen.

N: rows, Z: embedding, C: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from model.errors import DataError
from model.head import Float32, logits
from model.lda import LdaHead, class_means, shrunk_cholesky, within_class_covariance
from model.noise import class_noise
from training.task import Task
from training.trainer import Networks


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadFit:
    """A head with its rows.

    Attributes:
        head: grows by a class.
        centre: mean of the seen classes' mean embeddings, subtracted before anything else, float32 [Z].
        weight: float32 [C, Z].
        bias: float32 [C].
    """

    head: LdaHead
    centre: Float32
    weight: Float32
    bias: Float32

    def logits(self, z_NZ: ArrayLike) -> Float32:
        """Scores of embeddings that are not centred yet, float32 [N, C]."""
        return logits(np.asarray(z_NZ, dtype=np.float32) - self.centre, self.weight, self.bias)


def fit_head(
    networks: Networks, task: Task, names: Sequence[str], *, shrinkage: float, samples: int, key: str
) -> HeadFit:
    """Fit the `lda` head on a task's real rows and the generator's unseen classes; see :func:`fit_heads`."""
    (head,) = fit_heads(networks, task, names, shrinkages=(shrinkage,), samples=samples, key=key)
    return head


def fit_heads(
    networks: Networks, task: Task, names: Sequence[str], *, shrinkages: Sequence[float], samples: int, key: str
) -> list[HeadFit]:
    """Fit a head for each shrinkage; embeddings, means and covariance are computed once.

    Args:
        networks: trained.
        task: the rows and classes it was trained on.
        names: id of each class; with `key` it decides the noise.
        shrinkages: of the covariance.
        samples: synthesised embeddings per unseen class.
        key: id of what the heads belong to.

    Raises:
        DataError: the embeddings of each class are all the same.
    """
    z, labels = embed(networks, task.features), task.labels.cpu().numpy()
    means = np.zeros((len(task.seen), z.shape[1]))
    real, _ = class_means(z.astype(np.float64), labels)
    means[: len(real)] = real
    seen = task.seen.cpu().numpy()
    centre = means[seen].mean(axis=0).astype(np.float32)
    covariance = within_class_covariance(z - centre, (np.cumsum(seen) - 1)[labels])
    for index in np.flatnonzero(~seen).tolist():
        means[index] = synthesise(networks, task.attributes[index], key, names[index], samples).mean(
            0, dtype=np.float64
        )
    fits = []
    for shrinkage in shrinkages:
        try:
            head = LdaHead(shrunk_cholesky(covariance, shrinkage))
        except ValueError as error:
            raise DataError(f"no head can be fitted on the embeddings of the training images: {error}") from None
        weight, bias = head.rows(means - centre)
        fits.append(HeadFit(head=head, centre=centre, weight=weight, bias=bias))
    return fits


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
    noise = torch.from_numpy(class_noise(key, class_id, samples, generator.noise_dim, antithetic=True)).to(
        attributes_A.device
    )
    features: torch.Tensor = generator(noise, attributes_A.expand(samples, -1))
    return features
