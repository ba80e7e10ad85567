"""The losses of D3GZSL: in-distribution dual-space distillation (ID2SD) and batch-wise out-of-distribution (O2DBD).

Source: Wang et al., AAAI 2024. Each loss has the form we hold right (`corrected`) and the form of the authors' code
(`faithful`), which differs from the paper's framework figure in ways that bound or invert it.

B: rows, Z: embedding, S: seen classes, C: all classes of training.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from training.pairs import balanced_pairs, shifted_pairs
from training.plane import balanced_pairs_in_plane, shifted_pairs_in_plane

Form = Literal["corrected", "faithful"]
Target = Literal["domain", "class"]


def label_distillation(seen_logits_BS: Tensor, teacher_log_probs_BS: Tensor, form: Form) -> Tensor:
    """L_kl, label space of ID2SD: KL(p_teacher || softmax(student's seen logits)), mean over rows, at least 0.

    `faithful` soft-maxes both probability vectors once more, which bounds the loss by (e - 1)/(e + S - 1): 0.0113 for
    150 classes, and 0.0065 against a student that knows nothing.

    Args:
        seen_logits_BS: student's logits of the seen classes for real seen rows.
        teacher_log_probs_BS: teacher's log-probabilities of the same rows and columns.
        form: which form.
    """
    if form == "corrected":
        return F.kl_div(F.log_softmax(seen_logits_BS, 1), teacher_log_probs_BS, reduction="batchmean", log_target=True)
    student = F.log_softmax(F.softmax(seen_logits_BS, 1), 1)
    teacher = F.softmax(teacher_log_probs_BS.exp(), 1)
    return F.kl_div(student, teacher, reduction="batchmean")


def embedding_distillation(teacher_BZ: Tensor, student_BZ: Tensor, labels_B: Tensor, form: Form) -> Tensor:
    """L_be, embedding space of ID2SD: pairs (i, j) of real seen rows are alike where their labels are equal.

    s_ij = cos(E_o(x_i), E_s(x_j)), binary cross-entropy against [y_i = y_j] over all B^2 pairs.

    Args:
        teacher_BZ: E_o of the rows.
        student_BZ: E_s of the rows, same Z.
        labels_B: class of each row.
        form: which form.
    """
    pairs = balanced_pairs if form == "corrected" else shifted_pairs
    return pairs(teacher_BZ, student_BZ, labels_B)


def ood_distillation(
    logits_BC: Tensor, head: torch.nn.Module, confidence_B: Tensor, groups_B: Tensor, form: Form
) -> Tensor:
    """L_od of O2DBD: the student's two-way output of row i meets the teacher's [c_j, 1 - c_j] of row j.

    a_i = softmax(H(softmax(logits_i))), b_j = [c_j, 1 - c_j], s_ij = cos(a_i, b_j), binary cross-entropy against
    [g_i = g_j] over all pairs. `faithful` feeds H log-probabilities and soft-maxes b once more.

    Args:
        logits_BC: student's logits of all rows, synthetic unseen and real seen.
        head: H, C numbers to 2.
        confidence_B: c, in 0..1.
        groups_B: what makes two rows alike: class, in 0..C-1 (as in the code), or real against synthetic, bool.
        form: which form.
    """
    if form == "corrected":
        return balanced_pairs_in_plane(head(F.softmax(logits_BC, 1)), confidence_B, groups_B)
    group_count = 2 if groups_B.dtype == torch.bool else logits_BC.shape[1]
    return shifted_pairs_in_plane(head(F.log_softmax(logits_BC, 1)), confidence_B, groups_B, group_count)


def classification(logits_BC: Tensor, labels_B: Tensor, form: Form) -> Tensor:
    """L_cls: cross-entropy over all classes; `corrected` gives every class in the batch the same weight.

    The published batch holds 5 synthetic rows per unseen class against 256 real rows and weighs rows equally.
    """
    if form == "faithful":
        return F.cross_entropy(logits_BC, labels_B)
    counts = torch.zeros(logits_BC.shape[1], device=logits_BC.device, dtype=logits_BC.dtype)
    counts.index_add_(0, labels_B, torch.ones_like(labels_B, dtype=logits_BC.dtype))
    weight = 1 / (counts[labels_B] * (counts > 0).sum())
    rows = F.cross_entropy(logits_BC, labels_B, reduction="none")
    loss: Tensor = torch.dot(weight, rows)
    return loss


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
