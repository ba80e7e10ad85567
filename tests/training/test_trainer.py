"""The training loop: the same again from a seed, and what each switch changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from tests.training.tiny import METHODS, Noting, config, same, state, task
from training.config import ContrastiveConfig, DiffusionConfig, GeneratorConfig, VaeConfig
from training.datasets.dataset import Task
from training.method.trainer import Networks, Trainer, train
from training.runs.fit import without_d3
from training.runs.measuring import gradient_shares


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


def trained(small: Task, *settings: str, epochs: int = 2) -> Trainer:
    trainer = Trainer(small, config("generator.averaging=0", *settings))
    while trainer.epoch < epochs:
        trainer.run_epoch()
    return trainer


@pytest.fixture(scope="module")
def bases(small: Task) -> dict[str, Trainer]:
    """One training of each method."""
    return {method: trained(small, f"generator.method={method}") for method in METHODS}


@pytest.fixture(scope="module")
def base(bases: dict[str, Trainer]) -> Networks:
    return bases["wgan"].networks


def differ(left: nn.Module, right: nn.Module) -> bool:
    """Whether two modules have other weights, or weights of another form."""
    a, b = state(left), state(right)
    return a.keys() != b.keys() or any(a[k].shape != b[k].shape or not torch.equal(a[k], b[k]) for k in a)


# --- the same again -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_everything(small: Task, bases: dict[str, Trainer], method: str) -> None:
    torch.manual_seed(99)  # what came before does not matter
    networks = bases[method].networks
    assert same(trained(small, f"generator.method={method}").networks, networks)
    other = dict(trained(small, f"generator.method={method}", "seed=1").networks.modules())
    for name, module in networks.modules():
        assert not same(module, other[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_a_shorter_training_is_the_beginning_of_a_longer_one(
    small: Task, bases: dict[str, Trainer], method: str
) -> None:
    """Selection measures every length in one training, and then trains anew for the chosen length."""
    on_the_way: dict[int, dict[str, torch.Tensor]] = {}
    settings = config("generator.averaging=0", f"generator.method={method}")
    networks = train(small, settings, epochs=4, measuring=Noting(lambda e, n, _: on_the_way.update({e: state(n)})))
    assert list(on_the_way) == [1, 2, 3, 4]
    short = state(bases[method].networks)
    assert all(torch.equal(on_the_way[2][key], value) for key, value in short.items())
    assert not all(torch.equal(on_the_way[3][key], value) for key, value in short.items())
    assert all(torch.equal(on_the_way[4][key], value) for key, value in state(networks).items())


def test_measuring_gradients_does_not_disturb_training(small: Task, base: Networks) -> None:
    settings = config("generator.averaging=0")
    shares: list[dict[str, float]] = []
    measured = train(
        small,
        settings,
        epochs=2,
        measuring=Noting(lambda _e, n, _l: shares.append(gradient_shares(n, small, settings))),
    )
    assert [sorted(s) for s in shares] == [["be", "cls", "kl", "od"]] * 2
    assert same(measured, base)


# --- the student's losses -------------------------------------------------------------------------

OFF = ("d3.label_distillation", "d3.embedding_distillation", "d3.ood_distillation")


@pytest.mark.parametrize("switch", [*OFF, "d3.classification"])
@pytest.mark.parametrize("method", METHODS)
def test_every_term_changes_student_and_generator(
    small: Task, bases: dict[str, Trainer], switch: str, method: str
) -> None:
    other, base = trained(small, f"{switch}=0", f"generator.method={method}").networks, bases[method].networks
    assert not same(other.student.embedding, base.student.embedding)
    assert not same(other.student.classifier, base.student.classifier)
    assert not same(other.generator, base.generator)
    assert same(other.teacher, base.teacher)


def test_all_terms_off_is_without_d3(small: Task, base: Networks) -> None:
    settings = without_d3(config("generator.averaging=0"))
    plain = train(small, settings, epochs=2)
    assert same(plain, trained(small, *(f"{switch}=0" for switch in OFF)).networks)
    assert not same(plain.student, base.student)
    assert not same(plain.generator, base.generator)
    start = Trainer(small, settings).networks.student  # H and the confidence serve L_od only
    assert same(plain.student.ood_head, start.ood_head)
    assert torch.equal(plain.student.log_w, start.log_w)
    assert torch.equal(plain.student.b, start.b)
    assert not same(base.student.ood_head, start.ood_head)
    assert not torch.equal(base.student.log_w, start.log_w)
    assert not torch.equal(base.student.b, start.b)


def test_without_any_student_loss_the_student_stays(small: Task) -> None:
    """But that CE-GZSL's contrast trains its embedding."""
    off = [f"{switch}=0" for switch in (*OFF, "d3.classification")]
    for method in METHODS:
        settings = [*off, f"generator.method={method}"]
        after, before = trained(small, *settings).networks, trained(small, *settings, epochs=0).networks
        assert same(after.student.embedding, before.student.embedding) == (method != "cegzsl")
        assert same(after.student.classifier, before.student.classifier)
        assert not same(after.generator, before.generator)


@pytest.mark.parametrize(
    "setting",
    [
        "d3.cls_form=faithful",
        "d3.kl_form=faithful",
        "d3.be_form=faithful",
        "d3.od_form=faithful",
        "d3.ood_target=class",
        "d3.embedding_init=normal",
        "d3.embedding_lr_factor=1",
        "d3.synthetic_per_class=2",
        "d3.embedding_init=normal d3.embedding_dim=5",
    ],
)
def test_every_form_changes_the_weights(small: Task, base: Networks, setting: str) -> None:
    other = trained(small, *setting.split()).networks
    assert differ(base.student.classifier, other.student.classifier)
    assert differ(base.generator, other.generator)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_share_the_student_losses_do_not_reach_the_generator(small: Task, method: str) -> None:
    """The critic neither; in CE-GZSL they reach it through the embedding that its contrast shares."""
    fixed = ("d3.generator_share=0", f"generator.method={method}", "contrastive.instance_weight=0")
    settings = (*fixed, "contrastive.class_weight=0")
    alone = trained(small, *settings)
    for switch in (*OFF, "d3.classification"):
        other = trained(small, *settings, f"{switch}=0")
        assert same(other.networks.generator, alone.networks.generator)
        assert not same(other.networks.student, alone.networks.student)
        assert same(other._method, alone._method) == (method != "cegzsl")
        assert same(other._method.sampler, alone._method.sampler)


# --- the generator's settings ---------------------------------------------------------------------

EVERY = {
    "generator.hidden": "7",
    "generator.noise_dim": "2",
    "generator.seen_classification": "0",
    "generator.gp_weight": "0",
    "generator.critic_steps": "1",
    "generator.path_ridge": "[7]",
    "generator.attribute_path": "linear",
    "generator.path_choice": "ausuc",
    "generator.learning_rate_factor": "0.5",
    "generator.warm_up": "3",
    "generator.averaging": "0.5",
}
OWN = {
    "cegzsl": {
        "contrastive.projection": "3",
        "contrastive.comparator_hidden": "5",
        "contrastive.instance_weight": "0",
        "contrastive.class_weight": "0",
        "contrastive.instance_temperature": "0.5",
        "contrastive.class_temperature": "0.5",
    },
    "tfvaegan": {"vae.weight": "0", "vae.semantic_weight": "0", "vae.feedback": "0.5"},
    "diffusion": {"diffusion.steps": "2", "diffusion.batches": "1"},
}
WITHOUT_MEANING = {("diffusion", "generator.noise_dim"), ("diffusion", "generator.gp_weight")}


@pytest.mark.parametrize(
    ("method", "setting"),
    [(method, setting) for method in METHODS for setting in (*EVERY, *OWN.get(method, {}))],
)
def test_every_setting_of_the_generator_changes_it(
    small: Task, bases: dict[str, Trainer], method: str, setting: str
) -> None:
    value = EVERY.get(setting) or OWN[method][setting]
    other = trained(small, f"generator.method={method}", f"{setting}={value}")
    changed = differ(bases[method].networks.generator, other.networks.generator)
    assert changed == ((method, setting) not in WITHOUT_MEANING)


def test_no_setting_of_the_generator_is_left_out() -> None:
    sections = {
        "generator": GeneratorConfig,
        "contrastive": ContrastiveConfig,
        "vae": VaeConfig,
        "diffusion": DiffusionConfig,
    }
    fields = {f"{name}.{field.name}" for name, kind in sections.items() for field in dataclasses.fields(kind)}
    assert {*EVERY, *(setting for own in OWN.values() for setting in own)} == fields - {"generator.method"}


@pytest.mark.parametrize("method", METHODS)
def test_settings_of_another_method_change_nothing(small: Task, bases: dict[str, Trainer], method: str) -> None:
    others = [f"{name}={value}" for owner, own in OWN.items() if owner != method for name, value in own.items()]
    assert same(trained(small, f"generator.method={method}", *others).networks, bases[method].networks)


@pytest.mark.parametrize(("setting", "steps"), [(0, 3), (1, 1), (7, 7)])
def test_steps_of_an_epoch(small: Task, setting: int, steps: int) -> None:
    """One pass over the 40 rows in batches of 16, or as many as asked for."""
    assert Trainer(small, config(steps=setting)).steps == steps


def test_only_seen_classes() -> None:
    """Nothing to synthesise is nothing to fail on."""
    alone = task(seen=4, unseen=0, rows=6, dim=6)
    for method in METHODS:
        networks = train(alone, config(f"generator.method={method}"), epochs=1)
        assert all(torch.isfinite(value).all() for value in state(networks).values())
