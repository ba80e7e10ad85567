"""Configuration of a D3GZSL run: frozen, checked, and saved beside the weights as `config.json`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, PydanticCustomError

from model.errors import DataError, Problem

ClassifierInit = Literal["normal", "head"]
Compile = Literal["auto", "on", "off"]
EmbeddingInit = Literal["identity", "normal"]
LossForm = Literal["corrected", "faithful"]
OodTarget = Literal["domain", "class"]
PathChoice = Literal["error", "ausuc"]
Precision = Literal["fp32", "tf32", "bf16"]
Protocol = Literal["validation", "test-best"]

# Like pydantic's of the same names, but strict: text and truth values are no numbers, and 1.0 is no int (1 is a float).
PositiveInt = Annotated[int, Field(strict=True, ge=1)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0)]
Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
PositiveFloats = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
Shrinkages = Annotated[tuple[Annotated[float, Field(strict=True, gt=0, le=1)], ...], Field(min_length=1)]

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class CheckedConfig:
    """Settings that are checked when they are made; a `DataError` names every one that does not fit."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, given: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(given)
        except ValidationError as error:
            if not isinstance(given, ArgsKwargs):  # a section in a larger table, which names the faults of all
                raise
            raise DataError("the configuration is not valid", _problems(cls, error)) from None


# What pydantic calls an error, and what was expected; for other errors its own message says that.
_EXPECTED = {
    "dataclass_type": "a table of settings",
    "tuple_type": "a list",
    "too_short": "at least one value",
    "int_type": "a whole number",
    "float_type": "a number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "a number below {lt:.19g}",
    "less_than_equal": "at most {le:g}",
}


def _problems(kind: type[Any], error: ValidationError) -> Iterator[Problem]:
    """What is wrong with each setting, once for each; of a list, the first value that does not fit."""
    named = set()
    for fault in error.errors():
        path = [name for name in fault["loc"] if isinstance(name, str)]
        pointer = ".".join(path)
        if pointer in named:
            continue
        named.add(pointer)
        if fault["type"] == "unexpected_keyword_argument":
            section = functools.reduce(getattr, path[:-1], kind())
            known = ", ".join(field.name for field in dataclasses.fields(section))
            yield Problem(pointer=pointer, detail=f"no such setting; known here: {known}")
        else:
            expected = _EXPECTED.get(fault["type"], "").format(**fault.get("ctx", {}))
            expected = expected or fault["msg"].removeprefix("Input should be ")
            yield Problem(pointer=pointer, detail=f"expected {expected}, got {fault['input']!r}")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class TeacherConfig(CheckedConfig):
    """Pre-training of the out-of-distribution teacher on real trainval rows.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows per step.
        learning_rate: of Adam.
        embedding_lr_factor: learning rate of E_o relative to that of C_o, 1 as published; C_o may learn fast where an
            E_o that starts as the identity hardly moves.
    """

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-4
    embedding_lr_factor: PositiveFloat = 1.0


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class GeneratorConfig(CheckedConfig):
    """The base generator; what only one method has is in a section of its own.

    Attributes:
        method: `wgan`, `cegzsl`, `tfvaegan` or `diffusion`.
        hidden: hidden units of generator, critic, encoder, decoder and denoiser.
        noise_dim: K; 0 takes the number of attributes. A `diffusion` generator has one per feature.
        attribute_path: a fixed ridge map from attributes to class means that the generator starts from and adds to, on
            the attributes themselves (`linear`) or on their likeness to those of seen classes (`kernel`); `none` as
            published (the paths are ours).
        path_ridge: candidates for its relative strength.
        path_choice: what decides on the strength: `error` of left-out seen classes, or `ausuc` of hidden ones, which
            decides on the strength and the norm correction together and starts from the choice by error.
        learning_rate_factor: learning rate of the generator relative to the others'.
        warm_up: outer steps of the training before the generator takes its first.
        critic_steps: steps of critic and student per step of the generator.
        gp_weight: of the gradient penalty.
        averaging: decay per outer step of the generator's moving average, which is what is kept; 0 keeps the last.
        seen_classification: weight of the teacher's cross-entropy on synthetic seen features, as in f-CLSWGAN.
    """

    method: Literal["wgan", "cegzsl", "tfvaegan", "diffusion"] = "wgan"
    hidden: PositiveInt = 512
    noise_dim: NonNegativeInt = 0
    attribute_path: Literal["kernel", "linear", "none"] = "kernel"
    path_ridge: PositiveFloats = (0.03, 0.1, 0.3, 1.0, 3.0)
    path_choice: PathChoice = "error"
    learning_rate_factor: PositiveFloat = 0.1
    warm_up: NonNegativeInt = 20
    critic_steps: PositiveInt = 5
    gp_weight: NonNegativeFloat = 10.0
    seen_classification: NonNegativeFloat = 0.01
    averaging: Decay = 0.98

    def anchors(self, seen_classes: int) -> int | None:
        """Seen classes that the attribute path compares with; 0 for a linear path, None for none."""
        return {"kernel": seen_classes, "linear": 0, "none": None}[self.attribute_path]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ContrastiveConfig(CheckedConfig):
    """What `cegzsl` adds to `wgan`.

    Attributes:
        projection: P, output of the projector.
        comparator_hidden: hidden units of the comparator.
        instance_weight: of the instance-level contrast of fake rows in the generator's loss.
        class_weight: of their class-level contrast.
        instance_temperature: of the instance-level contrast.
        class_temperature: of the class-level contrast.
    """

    projection: PositiveInt = 512
    comparator_hidden: PositiveInt = 2048
    instance_weight: NonNegativeFloat = 0.001
    class_weight: NonNegativeFloat = 0.001
    instance_temperature: PositiveFloat = 0.1
    class_temperature: PositiveFloat = 0.1


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class VaeConfig(CheckedConfig):
    """What `tfvaegan` adds to `wgan`.

    Attributes:
        weight: of reconstruction and divergence, per feature.
        semantic_weight: of the semantic decoder's error.
        feedback: strength of the feedback; 0 is f-VAEGAN-D2.
    """

    weight: NonNegativeFloat = 1.0
    semantic_weight: NonNegativeFloat = 0.01
    feedback: NonNegativeFloat = 1.0


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class DiffusionConfig(CheckedConfig):
    """What `diffusion` needs.

    Attributes:
        steps: T, steps from noise to features.
        batches: noisy copies of the real batch in each step.
    """

    steps: PositiveInt = 4
    batches: PositiveInt = 4


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class D3Config(CheckedConfig):
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
        classifier_init: initialisation of C_s: `normal`, random as published, or `head` (ours), the rows of an `lda`
            head on the starting embeddings of real seen rows and of rows that the starting generator synthesises.
        classifier_lr_factor: learning rate of C_s relative to the others'.
    """

    classification: NonNegativeFloat = 1.0
    label_distillation: NonNegativeFloat = 1.0
    embedding_distillation: NonNegativeFloat = 1.0
    ood_distillation: NonNegativeFloat = 1.0
    synthetic_per_class: PositiveInt = 5
    generator_share: NonNegativeFloat = 1e-4
    ood_target: OodTarget = "domain"
    cls_form: LossForm = "corrected"
    kl_form: LossForm = "corrected"
    be_form: LossForm = "corrected"
    od_form: LossForm = "corrected"
    embedding_dim: NonNegativeInt = 0
    embedding_init: EmbeddingInit = "identity"
    embedding_lr_factor: PositiveFloat = 0.002
    classifier_init: ClassifierInit = "normal"
    classifier_lr_factor: PositiveFloat = 1.0

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
        """NonNegativeFloat of each student term by its short name."""
        return {
            "cls": self.classification,
            "kl": self.label_distillation,
            "be": self.embedding_distillation,
            "od": self.ood_distillation,
        }


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class SelectionConfig(CheckedConfig):
    """Model selection: on pseudo-unseen classes taken from trainval, or as papers do it.

    Attributes:
        protocol: `validation` never looks at test rows; `test-best` takes the length, shrinkage and penalty that are
            best on them, as papers do.
        folds: how many disjoint groups of seen classes are hidden in turn.
        used_folds: how many of them are really trained; 0 takes all.
        repeats: how often the seen classes are split into folds anew, as in repeated k-fold cross-validation; all folds
            count the same.
        seen_fraction: share of the other classes' rows held out as pseudo test-seen.
        evaluations: how many lengths are considered, each half of the next; evenly spaced under `test-best`.
        patience: how many longer lengths without a better H end the first fold's training, and with it what the others
            train at most; 0 considers all lengths, as `test-best` does.
        shrinkage: candidates for the served head.
        samples: synthesised embeddings per unseen class, 1 to 200.
        novelty_folds: parts of the seen rows that `novelty` is measured against, each scored by a teacher or a head
            fitted on the others.
    """

    protocol: Protocol = "validation"
    folds: Annotated[int, Field(strict=True, ge=2)] = 4
    used_folds: NonNegativeInt = 0
    repeats: PositiveInt = 1
    seen_fraction: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.25
    evaluations: PositiveInt = 4
    patience: NonNegativeInt = 0
    shrinkage: Shrinkages = (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 0.95)
    samples: Annotated[int, Field(strict=True, ge=1, le=200)] = 200
    novelty_folds: Annotated[int, Field(strict=True, ge=2)] = 5

    @field_validator("used_folds")
    @classmethod
    def _of_the_folds(cls, used: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds", used)  # folds that are not valid have been named
        if used > folds:
            raise PydanticCustomError("used_folds", "0 (all) up to selection.folds, {folds}", {"folds": folds})
        return used


ADDED = {
    ("d3", "classifier_init"): "normal",
    ("d3", "classifier_lr_factor"): 1.0,
    ("generator", "path_choice"): "error",
}
"""Fields that configurations with digests in results do not have, and the values with which nothing is changed."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class TrainConfig(CheckedConfig):
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

    Example:
        >>> from training import TrainConfig
        >>> TrainConfig(epochs=30).generator.method
        'wgan'
        >>> TrainConfig.from_json({"generator": {"method": "cegzsl"}}).epochs
        24
    """

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    scaling: Literal["auto", "range", "normal"] = "auto"
    epochs: PositiveInt = 24
    steps: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 4e-4
    schedule: Literal["constant", "cosine", "published"] = "constant"
    adam_beta1: Decay = 0.5
    precision: Precision = "fp32"
    compile: Compile = "auto"
    teacher: TeacherConfig = TeacherConfig()
    generator: GeneratorConfig = GeneratorConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    vae: VaeConfig = VaeConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    d3: D3Config = D3Config()
    selection: SelectionConfig = SelectionConfig()

    def to_json(self) -> dict[str, Any]:
        """The fields as nested JSON values."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Hash of all fields; names a configuration in results and keys the noise of its evaluation.

        A field of `ADDED` counts only where it has another value, so that older configurations keep their digests.
        """
        fields = self.to_json()
        for (section, name), value in ADDED.items():
            if fields[section][name] == value:
                del fields[section][name]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """Read nested values, as in :meth:`to_json`; fields left out take their defaults.

        Raises:
            DataError: an unknown field, or a value of another type; names every one.
        """
        return cls(**fields)
