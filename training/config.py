"""Configuration of a D3GZSL run: frozen, checked, and saved beside the weights as `config.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model.errors import DataError, Problem
from model.head import HeadKind

AttributePathName = Literal["kernel", "linear", "none"]
MethodName = Literal["wgan", "cegzsl", "tfvaegan", "diffusion"]
LossForm = Literal["corrected", "faithful"]
OodTarget = Literal["domain", "class"]
EmbeddingInit = Literal["identity", "normal"]
Precision = Literal["fp32", "tf32", "bf16"]
Schedule = Literal["constant", "cosine", "published"]
Protocol = Literal["validation", "test-best"]
Compile = Literal["auto", "on", "off"]
ScalingSetting = Literal["auto", "range", "normal"]


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Pre-training of the out-of-distribution teacher on real trainval rows.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows per step.
        learning_rate: of Adam.
        embedding_lr_factor: learning rate of E_o relative to that of C_o, 1 as published; C_o may learn fast where an
            E_o that starts as the identity hardly moves.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-4
    embedding_lr_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The base generator; what only one method has is in a section of its own.

    Attributes:
        method: `wgan`, `cegzsl`, `tfvaegan` or `diffusion`.
        hidden: hidden units of generator, critic, encoder, decoder and denoiser.
        noise_dim: K; 0 takes the number of attributes. A `diffusion` generator has one per feature.
        attribute_path: a fixed ridge map from attributes to class means that the generator starts from and adds to, on
            the attributes themselves (`linear`) or on their likeness to those of seen classes (`kernel`); `none` as
            published (the paths are ours).
        path_ridge: candidates for its relative strength; how well left-out seen classes are predicted decides.
        learning_rate_factor: learning rate of the generator relative to the others'.
        warm_up: outer steps of the training before the generator takes its first.
        critic_steps: steps of critic and student per step of the generator.
        gp_weight: of the gradient penalty.
        averaging: decay per outer step of the generator's moving average, which is what is kept; 0 keeps the last.
        seen_classification: weight of the teacher's cross-entropy on synthetic seen features, as in f-CLSWGAN.
    """

    method: MethodName = "wgan"
    hidden: int = 512
    noise_dim: int = 0
    attribute_path: AttributePathName = "kernel"
    path_ridge: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    learning_rate_factor: float = 0.1
    warm_up: int = 20
    critic_steps: int = 5
    gp_weight: float = 10.0
    seen_classification: float = 0.01
    averaging: float = 0.98

    def anchors(self, seen_classes: int) -> int | None:
        """Seen classes that the attribute path compares with; 0 for a linear path, None for none."""
        return {"kernel": seen_classes, "linear": 0, "none": None}[self.attribute_path]


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """What `cegzsl` adds to `wgan`.

    Attributes:
        projection: P, output of the projector.
        comparator_hidden: hidden units of the comparator.
        instance_weight: of the instance-level contrast of fake rows in the generator's loss.
        class_weight: of their class-level contrast.
        instance_temperature: of the instance-level contrast.
        class_temperature: of the class-level contrast.
    """

    projection: int = 512
    comparator_hidden: int = 2048
    instance_weight: float = 0.001
    class_weight: float = 0.001
    instance_temperature: float = 0.1
    class_temperature: float = 0.1


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What `tfvaegan` adds to `wgan`.

    Attributes:
        weight: of reconstruction and divergence, per feature.
        semantic_weight: of the semantic decoder's error.
        feedback: strength of the feedback; 0 is f-VAEGAN-D2.
    """

    weight: float = 1.0
    semantic_weight: float = 0.01
    feedback: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """What `diffusion` needs.

    Attributes:
        steps: T, steps from noise to features.
        batches: noisy copies of the real batch in each step.
    """

    steps: int = 4
    batches: int = 4


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
    ood_target: OodTarget = "domain"
    cls_form: LossForm = "corrected"
    kl_form: LossForm = "corrected"
    be_form: LossForm = "corrected"
    od_form: LossForm = "corrected"
    embedding_dim: int = 0
    embedding_init: EmbeddingInit = "identity"
    embedding_lr_factor: float = 0.002

    def embedding_size(self, feature_dim: int) -> int:
        """Z for D features.

        Raises:
            DataError: `identity` with Z other than D.
        """
        size = self.embedding_dim or feature_dim
        if self.embedding_init == "identity" and size != feature_dim:
            raise DataError(
                f"d3.embedding_dim: expected {feature_dim} (or 0), the number of features, as d3.embedding_init is "
                f"identity, got {size}; embeddings of another size need d3.embedding_init=normal"
            )
        return size

    @property
    def free_w(self) -> bool:
        """Whether the confidence is the published one, of any slope, as it goes with the published L_od."""
        return self.od_form == "faithful"

    def weights(self) -> dict[str, float]:
        """Weight of each student term by its short name."""
        return {
            "cls": self.classification,
            "kl": self.label_distillation,
            "be": self.embedding_distillation,
            "od": self.ood_distillation,
        }


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Model selection: on pseudo-unseen classes taken from trainval, or as papers do it.

    Attributes:
        protocol: `validation` never looks at test rows; `test-best` takes the length, head and penalty that are best on
            them, as papers do.
        folds: how many disjoint groups of seen classes are hidden in turn.
        used_folds: how many of them are really trained; 0 takes all.
        deals: how often the seen classes are dealt into folds anew; all folds count the same.
        seen_fraction: share of the other classes' rows held out as pseudo test-seen.
        evaluations: how many lengths are considered, each half of the next; evenly spaced under `test-best`.
        patience: how many longer lengths without a better H end the first fold's training, and with it what the others
            train at most; 0 considers all lengths, as `test-best` does.
        heads: forms that the served head may have; `lda` is measured in any case, `softmax` up to 1,000 classes.
        shrinkage: candidates for the `lda` head.
        penalty: candidates for the `softmax` head, relative to the mean squared length of real embeddings.
        samples: synthesised embeddings per unseen class, 1 to 200.
        novelty_folds: teachers whose scores of rows they did not see `novelty` is measured against.
    """

    protocol: Protocol = "validation"
    folds: int = 4
    used_folds: int = 0
    deals: int = 1
    seen_fraction: float = 0.25
    evaluations: int = 4
    patience: int = 0
    heads: tuple[HeadKind, ...] = ("lda", "softmax")
    shrinkage: tuple[float, ...] = (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 0.95)
    penalty: tuple[float, ...] = (1e-3, 3e-4, 1e-4, 3e-5)
    samples: int = 200
    novelty_folds: int = 5


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run besides its data.

    Attributes:
        seed: of weights, batches, noise and folds.
        scaling: of features to 0..1: `range` by minimum and range, `normal` to a normal distribution, or `auto`, what
            the folds of the selection show to be better.
        epochs: the longest training that selection considers.
        steps: outer steps per epoch; 0 takes one pass over the rows.
        batch_size: real rows per step.
        learning_rate: of all optimisers.
        schedule: `constant`, `cosine` down to 0 at `epochs`, or `published`: every 20 epochs critic and generator
            x 1.09, student x 0.98, confidence x 0.99, which ends in divergence.
        adam_beta1: of all optimisers.
        precision: `fp32`, `tf32` products, or `bf16` networks with float32 losses.
        compile: how steps run. `auto`: on a GPU they are recorded as CUDA graphs; `on`: their losses are also compiled
            by torch.compile, on a CPU too, which costs a minute at the start; `off`: neither.
        teacher: its pre-training.
        generator: the base generator.
        contrastive: of `cegzsl`.
        vae: of `tfvaegan`.
        diffusion: of `diffusion`.
        d3: the student's losses.
        selection: of length, head and calibration.
    """

    seed: int = 0
    scaling: ScalingSetting = "auto"
    epochs: int = 24
    steps: int = 0
    batch_size: int = 64
    learning_rate: float = 4e-4
    schedule: Schedule = "constant"
    adam_beta1: float = 0.5
    precision: Precision = "fp32"
    compile: Compile = "auto"
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    d3: D3Config = field(default_factory=D3Config)
    selection: SelectionConfig = field(default_factory=SelectionConfig)

    def __post_init__(self) -> None:
        problems = [
            Problem(pointer=name, detail=f"expected {expected}, got {value}")
            for name, value, expected, fits in self._rules()
            if not fits
        ]
        if problems:
            raise DataError("the configuration is not valid", problems)

    def _rules(self) -> Iterator[tuple[str, Any, str, bool]]:
        positive = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "teacher.epochs": self.teacher.epochs,
            "teacher.batch_size": self.teacher.batch_size,
            "generator.hidden": self.generator.hidden,
            "generator.critic_steps": self.generator.critic_steps,
            "d3.synthetic_per_class": self.d3.synthetic_per_class,
            "contrastive.projection": self.contrastive.projection,
            "contrastive.comparator_hidden": self.contrastive.comparator_hidden,
            "diffusion.steps": self.diffusion.steps,
            "diffusion.batches": self.diffusion.batches,
            "selection.evaluations": self.selection.evaluations,
            "selection.deals": self.selection.deals,
        }
        for name, value in positive.items():
            yield name, value, "at least 1", value >= 1
        for name, rate in (
            ("learning_rate", self.learning_rate),
            ("teacher.learning_rate", self.teacher.learning_rate),
            ("teacher.embedding_lr_factor", self.teacher.embedding_lr_factor),
            ("d3.embedding_lr_factor", self.d3.embedding_lr_factor),
            ("generator.learning_rate_factor", self.generator.learning_rate_factor),
            ("contrastive.instance_temperature", self.contrastive.instance_temperature),
            ("contrastive.class_temperature", self.contrastive.class_temperature),
        ):
            yield name, rate, "a number above 0", 0 < rate < math.inf
        for name, weight in (
            ("d3.classification", self.d3.classification),
            ("d3.label_distillation", self.d3.label_distillation),
            ("d3.embedding_distillation", self.d3.embedding_distillation),
            ("d3.ood_distillation", self.d3.ood_distillation),
            ("d3.generator_share", self.d3.generator_share),
            ("generator.gp_weight", self.generator.gp_weight),
            ("generator.seen_classification", self.generator.seen_classification),
            ("contrastive.instance_weight", self.contrastive.instance_weight),
            ("contrastive.class_weight", self.contrastive.class_weight),
            ("vae.weight", self.vae.weight),
            ("vae.semantic_weight", self.vae.semantic_weight),
            ("vae.feedback", self.vae.feedback),
        ):
            yield name, weight, "a number of at least 0", 0 <= weight < math.inf
        ridge = self.generator.path_ridge
        yield "generator.path_ridge", ridge, "numbers above 0", bool(ridge) and all(0 < r < math.inf for r in ridge)
        shrinkage, samples = self.selection.shrinkage, self.selection.samples
        yield (
            "selection.shrinkage",
            shrinkage,
            "numbers above 0, at most 1",
            bool(shrinkage) and all(0 < s <= 1 for s in shrinkage),
        )
        penalty, heads = self.selection.penalty, self.selection.heads
        yield (
            "selection.penalty",
            penalty,
            "numbers above 0",
            bool(penalty) and all(0 < p < math.inf for p in penalty),
        )
        yield (
            "selection.heads",
            heads,
            "lda, softmax or both, each once",
            bool(heads) and len(set(heads)) == len(heads),
        )
        yield "selection.samples", samples, "1 to 200", 1 <= samples <= 200
        for name, count in (
            ("selection.folds", self.selection.folds),
            ("selection.novelty_folds", self.selection.novelty_folds),
        ):
            yield name, count, "at least 2", count >= 2
        used, folds = self.selection.used_folds, self.selection.folds
        yield "selection.used_folds", used, f"0 (all) up to selection.folds, {folds}", 0 <= used <= max(folds, 0)
        yield (
            "selection.seen_fraction",
            self.selection.seen_fraction,
            "above 0, below 1",
            (0 < self.selection.seen_fraction < 1),
        )
        for name, size in (
            ("generator.noise_dim", self.generator.noise_dim),
            ("d3.embedding_dim", self.d3.embedding_dim),
            ("steps", self.steps),
            ("selection.patience", self.selection.patience),
            ("generator.warm_up", self.generator.warm_up),
        ):
            yield name, size, "at least 0", size >= 0
        yield "seed", self.seed, "0 up to 2^63 - 1", 0 <= self.seed < 2**63
        yield "generator.averaging", self.generator.averaging, "0 up to 1", 0 <= self.generator.averaging < 1
        yield "adam_beta1", self.adam_beta1, "0 up to 1", 0 <= self.adam_beta1 < 1

    def to_json(self) -> dict[str, Any]:
        """The fields as nested JSON values."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Hash of all fields; names a configuration in results and keys the noise of its evaluation."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:32]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """Read nested values, as in :meth:`to_json`; fields left out take their defaults.

        Raises:
            DataError: an unknown field, or a value of another type; names every one.
        """
        problems: list[Problem] = []
        values = _fields(cls, fields, "", problems)
        try:
            config = cls(**values)
        except DataError as error:
            raise DataError(error.message, [*problems, *error.problems]) from None
        if problems:
            raise DataError("the configuration is not valid", problems)
        return config


def _fields(kind: type[Any], fields: Mapping[str, Any], prefix: str, problems: list[Problem]) -> dict[str, Any]:
    """The values that fit the fields of a dataclass; what does not is added to `problems`."""
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        where = prefix + name
        if name not in types:
            problems.append(Problem(pointer=where, detail=f"no such setting; known here: {', '.join(types)}"))
        elif dataclasses.is_dataclass(types[name]):
            if isinstance(value, Mapping):
                values[name] = types[name](**_fields(types[name], value, f"{where}.", problems))
            else:
                problems.append(Problem(pointer=where, detail=f"expected a table of settings, got {value!r}"))
        elif (fitted := _fit(types[name], value)) is None:
            problems.append(Problem(pointer=where, detail=f"expected {_described(types[name])}, got {value!r}"))
        else:
            values[name] = fitted
    return values


def _fit(kind: Any, value: Any) -> Any:
    """The value as the field's type, or None where it does not fit."""
    if typing.get_origin(kind) is typing.Literal:
        return value if value in typing.get_args(kind) else None
    if typing.get_origin(kind) is tuple:
        of = typing.get_args(kind)[0]
        values = [_fit(of, v) for v in value] if isinstance(value, list | tuple) else [None]
        return None if None in values else tuple(values)
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is int:
        return value if isinstance(value, int) else None
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # an int that no float can hold
        return None


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        of = typing.get_args(kind)[0]
        return "a list of numbers" if of is float else f"a list of {_described(of)}"
    return {int: "a whole number", float: "a number", bool: "true or false"}[kind]
