"""Settings: what is refused, how everything wrong is named at once, and overrides on the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from training.config import ADDED, D3Config, GeneratorConfig, SelectionConfig, TeacherConfig, TrainConfig
from training.recipes import configured

OTHER = TrainConfig(
    seed=7,
    epochs=3,
    learning_rate=0.01,
    teacher=TeacherConfig(epochs=4),
    generator=GeneratorConfig(attribute_path="linear", noise_dim=9),
    d3=D3Config(ood_target="class", be_form="faithful", label_distillation=0.0),
    selection=SelectionConfig(folds=2, shrinkage=(0.25,)),
)


def pointers(error: pytest.ExceptionInfo[DataError]) -> list[str]:
    return [problem.pointer for problem in error.value.problems]


@pytest.mark.parametrize("config", [TrainConfig(), OTHER])
def test_round_trip_through_json(config: TrainConfig) -> None:
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_fields_left_out_take_their_defaults() -> None:
    assert TrainConfig.from_json({}) == TrainConfig()
    assert TrainConfig.from_json({"teacher": {"epochs": 4}}) == TrainConfig(teacher=TeacherConfig(epochs=4))


def test_every_field_of_every_section_is_read() -> None:
    """A field that from_json forgot would keep its default."""

    def changed(value: Any) -> Any:
        other = {
            "corrected": "faithful",
            "domain": "class",
            "identity": "normal",
            "normal": "head",
            "wgan": "cegzsl",
            "kernel": "linear",
            "error": "ausuc",
            "constant": "cosine",
            "fp32": "bf16",
            "validation": "test-best",
            "auto": "normal",
            "on": "off",
        }
        if isinstance(value, dict):
            return {name: changed(inner) for name, inner in value.items()}
        if isinstance(value, bool):
            return not value
        if isinstance(value, str):
            return other[value]
        if isinstance(value, int):
            return value + 1
        return [v if isinstance(v, str) else v / 2 for v in value] if isinstance(value, tuple) else value / 2

    usual = TrainConfig().to_json()
    fields = changed({**usual, "compile": "on", "selection": {**usual["selection"], "samples": 9}})
    read = TrainConfig.from_json(fields)
    assert json.loads(json.dumps(read.to_json())) == json.loads(json.dumps(fields))
    assert fields["selection"]["samples"] == 10
    for section in dataclasses.fields(TrainConfig):
        assert getattr(read, section.name) != getattr(TrainConfig(), section.name), section.name


BAD = {
    "seed": [-1, 2**63],
    "epochs": [0, -3],
    "steps": [-1],
    "batch_size": [0],
    "learning_rate": [0, -1, math.inf, math.nan],
    "adam_beta1": [-0.1, 1, math.nan],
    "teacher.epochs": [0],
    "teacher.batch_size": [0],
    "teacher.learning_rate": [0, math.nan],
    "generator.hidden": [0],
    "generator.noise_dim": [-1],
    "generator.path_ridge": [[], [0.1, 0], [-1], [math.inf], [math.nan]],
    "generator.learning_rate_factor": [0, math.nan],
    "generator.warm_up": [-1],
    "generator.critic_steps": [0],
    "generator.gp_weight": [-1],
    "generator.seen_classification": [-1, math.nan],
    "generator.averaging": [-0.1, 1, math.nan],
    "contrastive.projection": [0],
    "contrastive.comparator_hidden": [0],
    "contrastive.instance_weight": [-1, math.nan],
    "contrastive.class_weight": [-1, math.inf],
    "contrastive.instance_temperature": [0, math.nan],
    "contrastive.class_temperature": [0, -1],
    "vae.weight": [-1, math.nan],
    "vae.semantic_weight": [-1, math.inf],
    "vae.feedback": [-1, math.nan],
    "diffusion.steps": [0],
    "diffusion.batches": [0],
    "d3.classification": [-1],
    "teacher.embedding_lr_factor": [0, math.inf],
    "d3.label_distillation": [-1, math.nan],
    "d3.embedding_distillation": [-1, math.inf],
    "d3.ood_distillation": [-1],
    "d3.synthetic_per_class": [0],
    "d3.generator_share": [-1e-4],
    "d3.embedding_dim": [-1],
    "d3.embedding_lr_factor": [0, math.nan],
    "d3.classifier_lr_factor": [0, math.inf],
    "selection.folds": [1, 0],
    "selection.used_folds": [-1, 5],
    "selection.repeats": [0],
    "selection.novelty_folds": [1, 0],
    "selection.seen_fraction": [0, 1, -0.5, math.nan],
    "selection.evaluations": [0],
    "selection.patience": [-1],
    "selection.shrinkage": [[], [0.5, 0], [1.5], [math.nan]],
    "selection.samples": [0, 201],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(DataError, match="the configuration is not valid") as error:
        configured([f"{name}={json.dumps(value)}"])
    (problem,) = error.value.problems
    assert problem.pointer == name
    assert re.fullmatch(r"expected .+, got .+", problem.detail)


def test_every_number_has_a_rule_or_any_value_will_do() -> None:
    """A number added to the settings without a rule fails here: its worst values must be in `BAD`."""
    fields = {
        f"{section}.{name}" if section else name: value
        for section, values in [("", TrainConfig().to_json()), *TrainConfig().to_json().items()]
        if isinstance(values, dict)
        for name, value in values.items()
        if not isinstance(value, dict | bool | str)
    }
    assert set(fields) == set(BAD)


@pytest.mark.parametrize(
    ("setting", "detail"),
    [
        ("epochs=ten", "expected a whole number, got 'ten'"),
        ("epochs=1.5", "expected a whole number, got 1.5"),
        ("epochs=true", "expected a whole number, got True"),
        ("epochs=null", "expected a whole number, got None"),
        ("epochs=", "expected a whole number, got ''"),
        ("learning_rate=fast", "expected a number, got 'fast'"),
        ("learning_rate=false", "expected a number, got False"),
        ("generator.attribute_path=true", "expected 'kernel', 'linear' or 'none', got True"),
        ("d3.kl_form=published", "expected 'corrected' or 'faithful', got 'published'"),
        ("d3.ood_target=3", "expected 'domain' or 'class', got 3"),
        ("generator.method=gan", "expected 'wgan', 'cegzsl', 'tfvaegan' or 'diffusion', got 'gan'"),
        ("selection.shrinkage=[0.1, false]", "expected a number, got False"),
        ("schedule=linear", "expected 'constant', 'cosine' or 'published', got 'linear'"),
        ("precision=16", "expected 'fp32', 'tf32' or 'bf16', got 16"),
        ("selection.shrinkage=0.5", "expected a list, got 0.5"),
        ('selection.shrinkage=[0.5, "x"]', "expected a number, got 'x'"),
        ("selection.shrinkage=[true]", "expected a number, got True"),
        ("teacher=3", "expected a table of settings, got 3"),
        ("epochs.more=1", "expected a whole number, got {'more': 1}"),
        ("epochs=1.0", "expected a whole number, got 1.0"),
        ("epochs=0", "expected at least 1, got 0"),
        ("seed=9223372036854775808", "expected a number below 9223372036854775808, got 9223372036854775808"),
        ("learning_rate=0", "expected a number above 0, got 0"),
        ("learning_rate=NaN", "expected a finite number, got nan"),
        ("adam_beta1=1", "expected a number below 1, got 1"),
        ("selection.samples=201", "expected at most 200, got 201"),
        ("selection.shrinkage=[]", "expected at least one value, got []"),
        ("selection.shrinkage=[0.5, 2, 3]", "expected at most 1, got 2"),
        ("selection.used_folds=5", "expected 0 (all) up to selection.folds, 4, got 5"),
    ],
)
def test_values_of_another_type(setting: str, detail: str) -> None:
    with pytest.raises(DataError) as error:
        configured([setting])
    assert [problem.detail for problem in error.value.problems] == [detail]


def test_a_section_by_itself_and_a_replaced_setting_are_checked() -> None:
    for make in (
        lambda: SelectionConfig(folds=2, used_folds=3),
        lambda: dataclasses.replace(SelectionConfig(folds=2), used_folds=3),
    ):
        with pytest.raises(DataError, match=r"used_folds: expected 0 \(all\) up to selection\.folds, 2, got 3"):
            make()
    with pytest.raises(DataError, match="epochs: expected at least 1, got 0"):
        dataclasses.replace(TrainConfig(), epochs=0)
    with pytest.raises(DataError, match="foldz: no such setting; known here: protocol, folds, "):
        SelectionConfig(foldz=2)


def test_a_configuration_is_a_value() -> None:
    again = dataclasses.replace(OTHER, seed=OTHER.seed)
    assert again == OTHER
    assert len({OTHER, again, TrainConfig()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        OTHER.seed = 3  # type: ignore[misc]


def test_the_digest_is_the_same_for_the_same_settings() -> None:
    """It keys the noise of evaluations, so a number's type may not change it."""
    assert configured(["learning_rate=1"]).digest() == TrainConfig(learning_rate=1.0).digest()
    assert TrainConfig(learning_rate=1).digest() == TrainConfig(learning_rate=1.0).digest()
    assert TrainConfig.from_json(json.loads(json.dumps(OTHER.to_json()))).digest() == OTHER.digest()
    assert OTHER.digest() != TrainConfig().digest()


def test_settings_that_came_later_change_no_digest_of_older_configurations() -> None:
    fields = TrainConfig().to_json()
    for section, name in ADDED:
        del fields[section][name]
    older = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]
    assert TrainConfig().digest() == older
    settings = ("d3.classifier_init=head", "d3.classifier_lr_factor=0.5", "generator.path_choice=ausuc")
    others = [configured([setting]).digest() for setting in settings]
    assert len({older, *others}) == 1 + len(settings)


def test_a_number_too_large_for_a_float() -> None:
    with pytest.raises(DataError, match="learning_rate: expected a number, got 1000"):
        configured(["learning_rate=1" + 400 * "0"])


def test_everything_wrong_is_named_at_once() -> None:
    settings = [
        "epochs=0",
        "speed=3",
        "d3.kl_form=x",
        "teacher.hidden=3",
        "selection.samples=0",
        "d3.embedding_dim=1.5",
    ]
    with pytest.raises(DataError) as error:
        configured(settings)
    assert sorted(pointers(error)) == [
        "d3.embedding_dim",
        "d3.kl_form",
        "epochs",
        "selection.samples",
        "speed",
        "teacher.hidden",
    ]
    lines = str(error.value).splitlines()
    assert lines[0] == "the configuration is not valid"
    assert (
        "  teacher.hidden: no such setting; known here: epochs, batch_size, learning_rate, embedding_lr_factor" in lines
    )


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=3))
def test_no_value_is_more_than_a_data_error(value: Any) -> None:
    for name in BAD:
        section, _, last = name.rpartition(".")
        fields = {section: {last: value}} if section else {last: value}
        try:
            TrainConfig.from_json(fields)
        except DataError as error:
            assert [problem.pointer for problem in error.problems] == [name]  # noqa: PT017


@pytest.mark.parametrize("size", [0, 8])
def test_embedding_size(size: int) -> None:
    for init in ("identity", "normal"):
        assert D3Config(embedding_dim=size, embedding_init=init).embedding_size(8) == 8
    assert D3Config(embedding_dim=5, embedding_init="normal").embedding_size(8) == 5


def test_an_identity_embedding_keeps_the_size() -> None:
    with pytest.raises(
        DataError, match=r"d3\.embedding_dim: expected 8 \(or 0\).*identity, got 5; .*embedding_init=normal"
    ):
        D3Config(embedding_dim=5).embedding_size(8)


# --- overrides ------------------------------------------------------------------------------------


def test_overrides() -> None:
    made = configured(
        [
            "epochs=5",
            "generator.hidden=64",
            "generator.attribute_path=none",
            "d3.ood_target=class",
            'd3.kl_form="faithful"',
            "selection.shrinkage=[0.1, 1]",
            "learning_rate=1",
            "epochs=6",
        ]
    )
    assert made == TrainConfig(
        epochs=6,  # the last one counts
        learning_rate=1.0,
        generator=GeneratorConfig(hidden=64, attribute_path="none"),
        d3=D3Config(ood_target="class", kl_form="faithful"),
        selection=SelectionConfig(shrinkage=(0.1, 1.0)),
    )
    assert isinstance(made.learning_rate, float)
    assert configured([]) == TrainConfig()


def test_overrides_that_are_none() -> None:
    with pytest.raises(DataError, match="the settings are not valid") as error:
        configured(["epochs", "=3", "epochs=2", "teacher=1", "teacher.epochs=2"])
    assert [(problem.pointer, problem.detail) for problem in error.value.problems] == [
        ("--set epochs", "expected NAME=VALUE"),
        ("--set =3", "expected NAME=VALUE"),
        ("--set teacher.epochs=2", "teacher.epochs is inside another setting given"),
    ]


@pytest.mark.parametrize("name", ["nothing.epochs", "teacher.nothing", "teacher.epochs.more", ".", "epochs."])
def test_unknown_names(name: str) -> None:
    with pytest.raises(DataError):
        configured([f"{name}=1"])
