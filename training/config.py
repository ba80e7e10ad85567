"""Configuration of a D3GZSL run: frozen, checked, and saved beside the weights as `config.json`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model.errors import DataError, Problem
from model.networks.d3gzsl import EmbeddingInit
from training.losses import Form, Target


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Pre-training of the out-of-distribution teacher on real trainval rows."""

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The WGAN-GP base generator.

    Attributes:
        hidden: hidden units of generator and critic.
        noise_dim: K; 0 takes the number of attributes.
        linear_path: a linear map from attributes beside the hidden layer (ours).
        linear_path_ridge: relative ridge strength its weights start from; 0 starts at zero weights.
        critic_steps: critic updates per generator update.
        gp_weight: of the gradient penalty.
        seen_classification: weight of the teacher's cross-entropy on synthetic seen features, as in f-CLSWGAN.
    """

    hidden: int = 1024
    noise_dim: int = 0
    linear_path: bool = True
    linear_path_ridge: float = 0.3
    critic_steps: int = 5
    gp_weight: float = 10.0
    seen_classification: float = 0.01


@dataclass(frozen=True, kw_only=True)
class D3Config:
    """Student losses: their weights, switches and forms.

    Attributes:
        classification: weight of L_cls.
        label_distillation: weight of L_kl (ID2SD, label space).
        embedding_distillation: weight of L_be (ID2SD, embedding space).
        ood_distillation: weight of L_od (O2DBD).
        synthetic_per_class: noise draws per unseen class in every batch.
        generator_share: factor on the student losses' gradient where it reaches the generator.
        ood_target: what makes two rows alike in L_od.
        cls_form: form of L_cls.
        kl_form: form of L_kl.
        be_form: form of L_be.
        od_form: form of L_od.
        embedding_dim: Z; 0 takes D.
        embedding_init: initialisation of E_o and E_s.
        embedding_lr_factor: learning rate of E_s relative to the others'.
    """

    classification: float = 1.0
    label_distillation: float = 1.0
    embedding_distillation: float = 1.0
    ood_distillation: float = 1.0
    synthetic_per_class: int = 5
    generator_share: float = 1e-4
    ood_target: Target = "domain"
    cls_form: Form = "corrected"
    kl_form: Form = "corrected"
    be_form: Form = "corrected"
    od_form: Form = "corrected"
    embedding_dim: int = 0
    embedding_init: EmbeddingInit = "identity"
    embedding_lr_factor: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Model selection on pseudo-unseen classes taken from trainval, never on test.

    Attributes:
        folds: how many disjoint groups of seen classes are hidden in turn.
        seen_fraction: share of the other classes' rows held out as pseudo test-seen.
        evaluations: how often in the longest training the candidates are measured.
        shrinkage: candidates for the `lda` head.
        samples: synthesised embeddings per unseen class, 1 to 200.
    """

    folds: int = 4
    seen_fraction: float = 0.25
    evaluations: int = 8
    shrinkage: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    samples: int = 200


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run besides its data."""

    seed: int = 0
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-4
    adam_beta1: float = 0.5
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    d3: D3Config = field(default_factory=D3Config)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
