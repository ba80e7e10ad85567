"""How familiar a row looks: the scores that `novelty` can be measured by.

N: rows, Z: embedding, S: seen classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.head import Float32
from training.method.heads import HeadFit

NoveltyScore = Literal["teacher", "logit", "energy", "distance", "relative_mahalanobis"]
NOVELTY_SCORES: tuple[NoveltyScore, ...] = get_args(NoveltyScore)
TEACHER: NoveltyScore = "teacher"
"""The one score that needs more than the embedding and the head: the teacher's largest log-probability."""


class Familiarity(nn.Module):
    """One score of embeddings by the head's own Gaussians of the seen classes; larger is more familiar.

    With logits l_c = w_c z + b_c of the seen classes, class means m_c and the shrunk covariance S:

    - `logit`: max_c l_c, the log-density of the likeliest class over that of N(0, S);
    - `energy`: log sum_c exp l_c (Liu et al., NeurIPS 2020, arXiv 2010.03759);
    - `distance`: -min_c ||z - m_c||^2;
    - `relative_mahalanobis`: z' T^-1 z - min_c (z - m_c)' S^-1 (z - m_c) with T = S + B, B the covariance of the n
      class means (Ren et al., arXiv 2106.09022). By the matrix inversion lemma it is 2 max_c l_c - v' (n I + G)^-1 v
      with v_c = w_c z and G_cd = w_c m_d, so that it needs nothing but the head's rows.

    Classes that are only described take no part: registering one changes no score.

    Args:
        score: any but `teacher`.
        head: with rows of all classes.
        seen_C: which classes are seen.
    """

    def __init__(self, score: NoveltyScore, head: HeadFit, seen_C: NDArray[np.bool_]) -> None:
        super().__init__()
        if score == TEACHER:
            raise ValueError("the teacher's score is not a score of embeddings")
        self._score = score
        weight, bias, means = head.weight[seen_C], head.bias[seen_C], head.means[seen_C]
        self.weight, self.bias = nn.Buffer(torch.from_numpy(weight)), nn.Buffer(torch.from_numpy(bias))
        if score == "distance":
            self.means = nn.Buffer(torch.from_numpy(means.astype(np.float32)))
        if score == "relative_mahalanobis":
            gram = weight @ means.T
            gram[np.diag_indices(len(gram))] += len(gram)
            whitening = np.linalg.inv(np.linalg.cholesky((gram + gram.T) / 2))
            self.whitening = nn.Buffer(torch.from_numpy(whitening.astype(np.float32)))

    def forward(self, z: Tensor) -> Tensor:
        """Centred embeddings [N, Z] to scores [N]."""
        if self._score == "distance":
            nearness = 2 * z @ self.means.T - self.means.square().sum(dim=1)
            return nearness.amax(dim=1) - z.square().sum(dim=1)
        products = z @ self.weight.T
        logits = products + self.bias
        if self._score == "energy":
            return logits.logsumexp(dim=1)
        best = logits.amax(dim=1)
        return best if self._score == "logit" else 2 * best - (products @ self.whitening.T).square().sum(dim=1)


@torch.no_grad()
def familiarity(score: NoveltyScore, head: HeadFit, seen_C: NDArray[np.bool_], z_NZ: Float32) -> Float32:
    """One score of embeddings that are not centred yet, float32 [N], as a bundle's trunk computes it."""
    values: Float32 = Familiarity(score, head, seen_C)(torch.from_numpy(z_NZ - head.centre)).numpy()
    return values
