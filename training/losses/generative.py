"""The losses of the base generators: gradient penalty, divergence, and the contrasts of CE-GZSL.

The contrasts are those of Han et al., CVPR 2021, arXiv 2103.16173.

B: rows, D: features, K: latent numbers, P: projection, C: classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def supervised_contrastive(z_BP: Tensor, labels_B: Tensor, temperature: float) -> Tensor:
    """Instance-level supervision: L_out of SupCon (Khosla et al., NeurIPS 2020, arXiv 2004.11362).

    L = mean_i -1/|P(i)| sum_{p in P(i)} log(exp(z_i.z_p / t) / sum_{k != i} exp(z_i.z_k / t)), P(i) being the other
    rows of i's class. The mean is over anchors with something to pull and something to push: another row of their class
    and a row of another class. Without any (one row, one class, all classes different) loss and gradients are 0.

    Args:
        z_BP: projections of length 1, or 0.
        labels_B: class of each row, whole numbers.
        temperature: t, above 0.
    """
    similarity = z_BP @ z_BP.T / temperature
    itself = torch.eye(len(z_BP), dtype=torch.bool, device=z_BP.device)
    same = labels_B[:, None] == labels_B[None, :]
    positive = (same & ~itself).to(z_BP.dtype)
    count = positive.sum(1)
    anchor = ((count > 0) & ~same.all(1)).to(z_BP.dtype)
    # The lowest number instead of -inf: the log-sum of a single row stays finite, and so does its gradient.
    others = similarity.masked_fill(itself, torch.finfo(z_BP.dtype).min).logsumexp(1)
    pull = (positive * similarity).sum(1) / count.clamp(min=1)
    return (anchor * (others - pull)).sum() / anchor.sum().clamp(min=1)


def class_contrastive(scores_BC: Tensor, labels_B: Tensor, temperature: float) -> Tensor:
    """Class-level supervision: L = mean_i -log(exp(F(h_i, a_{y_i}) / t) / sum_j exp(F(h_i, a_j) / t)).

    Args:
        scores_BC: comparator's score of every row with every class that competes.
        labels_B: column of each row's class, int64.
        temperature: t, above 0.
    """
    return F.cross_entropy(scores_BC / temperature, labels_B)


def gradient_penalty(input_gradient_BD: Tensor) -> Tensor:
    """WGAN-GP penalty: mean (||grad_x D(x)||_2 - 1)^2 (Gulrajani et al., NeurIPS 2017, arXiv 1704.00028)."""
    excess: Tensor = torch.linalg.vector_norm(input_gradient_BD, dim=1) - 1
    return excess.square().mean()


def gaussian_kl(mean_BK: Tensor, log_variance_BK: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed over K, mean over rows (Kingma and Welling, ICLR 2014, arXiv 1312.6114).

    1/2 sum_k (mean^2 + variance - 1 - log variance).
    """
    per_row = 0.5 * (mean_BK.square() + log_variance_BK.exp() - 1 - log_variance_BK).sum(dim=1)
    return per_row.mean()
