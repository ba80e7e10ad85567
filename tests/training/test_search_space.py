"""Search spaces: the default one around any settings, those from files, and everything wrong with them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from model.errors import DataError
from training.config import TrainConfig
from training.recipes import configured, known_recipes, load_recipe, merged
from training.search.space import Choices, Interval, default_space, nested, read_space, start


@pytest.mark.parametrize("name", known_recipes())
def test_the_default_space_is_valid_around_every_recipe(name: str) -> None:
    base = load_recipe(name).config
    space = default_space(base)
    assert {"learning_rate", "generator.hidden", "d3.embedding_lr_factor", "d3.generator_share"} <= set(space)
    assert ("generator.gp_weight" in space) == (base.generator.method != "diffusion")
    assert ("vae.weight" in space) == (base.generator.method == "tfvaegan")
    assert ("contrastive.class_weight" in space) == (base.generator.method == "cegzsl")
    assert TrainConfig.from_json(merged(base.to_json(), nested(start(space, base)))) == base
    assert set(start(space, base)) == set(space)
    for setting, values in space.items():
        for end in values.ends():
            TrainConfig.from_json(merged(base.to_json(), nested({setting: end})))
        if isinstance(values, Interval):
            assert 0 < values.low < values.high
        assert len(set(values.ends())) == len(values.ends())


def test_a_term_that_is_off_stays_off() -> None:
    base = configured(["d3.ood_distillation=0", "d3.label_distillation=0", "generator.hidden=1"])
    space = default_space(base)
    assert {"d3.ood_distillation", "d3.ood_target", "d3.label_distillation"}.isdisjoint(space)
    assert "d3.embedding_distillation" in space
    assert space["generator.hidden"] == Choices(choices=(1, 2))


def test_factors_end_at_1() -> None:
    space = default_space(configured(["d3.embedding_lr_factor=0.5", "d3.generator_share=1.0"]))
    assert space["d3.embedding_lr_factor"] == Interval(low=0.5 / 30, high=1, log=True)
    assert space["d3.generator_share"] == Interval(low=0.01, high=1, log=True)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "space.toml"
    file.write_text(text)
    return file


def test_a_file_may_use_dots_quotes_or_tables(tmp_path: Path) -> None:
    text = (
        "learning_rate = {low = 1e-4, high = 1, log = true}\n"
        'generator.hidden = {low = 8, high = 64}\n"d3.ood_target" = {choices = ["domain", "class"]}\n'
        "[d3]\ngenerator_share = {choices = [0, 1e-3]}\n[vae]\nweight = {low = 0, high = 2}\n"
    )
    space = read_space(write(tmp_path, text), TrainConfig())
    assert space == {
        "learning_rate": Interval(low=1e-4, high=1.0, log=True),
        "generator.hidden": Interval(low=8, high=64),
        "d3.ood_target": Choices(choices=("domain", "class")),
        "d3.generator_share": Choices(choices=(0.0, 1e-3)),
        "vae.weight": Interval(low=0.0, high=2.0),
    }
    hidden, weight = space["generator.hidden"], space["vae.weight"]
    assert isinstance(hidden, Interval)
    assert isinstance(weight, Interval)
    assert (type(hidden.low), type(weight.low), type(weight.high)) == (int, float, float)


BAD = {
    "learning_rat = {low = 1, high = 2}": "learning_rat: no such setting",
    "generator.hiden = {low = 1, high = 2}": "generator.hiden: no such setting",
    "generator = {choices = [1]}": "generator.choices: no such setting",
    "learning_rate = 3": "learning_rate: expected {low, high, log} or {choices}, got 3",
    "learning_rate = {low = 1e-3}": "learning_rate: expected {low, high, log} or {choices}",
    "learning_rate = {low = 1e-3, high = 1e-2, step = 1}": "expected {low, high, log} or {choices}",
    "learning_rate = {choices = [1e-3], low = 1e-4}": "expected {low, high, log} or {choices}",
    "learning_rate = {low = 1e-2, high = 1e-3}": "learning_rate: expected numbers low < high",
    "learning_rate = {low = 'a', high = 1}": "learning_rate: expected numbers low < high",
    "learning_rate = {low = 1e-3, high = inf}": "learning_rate: expected numbers low < high",
    "learning_rate = {low = 0, high = 1}": "learning_rate: expected a number above 0, got 0.0",
    "d3.generator_share = {low = 0, high = 1, log = true}": "d3.generator_share: log: expected true or false, and low",
    "learning_rate = {low = 1e-3, high = 1e-2, log = 1}": "learning_rate: log: expected true or false",
    "epochs = {low = 1.5, high = 3}": "epochs: expected whole numbers",
    "epochs = {low = 0, high = 3}": "epochs: expected at least 1, got 0",
    "epochs = {choices = []}": "epochs: choices: expected a list of different values",
    "epochs = {choices = [3, 3]}": "epochs: choices: expected a list of different values",
    "epochs = {choices = ['many']}": "epochs: expected a whole number, got 'many'",
    "schedule = {low = 1, high = 2}": "schedule: expected choices, as its value is no number but 'constant'",
    "schedule = {choices = ['cosine', 'x']}": "schedule: expected 'constant', 'cosine' or 'published', got 'x'",
    "generator.path_ridge = {choices = [1.0]}": "generator.path_ridge: cannot be searched, only single values can",
    "seed = {low = 0, high = 9}": "seed: seed decides how H is measured",
    "selection.folds = {choices = [2, 3]}": "selection.folds: selection.folds decides how H is measured",
    "": "expected at least one setting",
    "a =": "cannot be read as TOML",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_space(file, TrainConfig())
    assert BAD[text] in str(error.value)
    assert f"--space {file}: " in str(error.value)


def test_everything_wrong_is_named_at_once(tmp_path: Path) -> None:
    wrong = [text for text in BAD if text.startswith(("learning_rat ", "epochs = {low = 0", "schedule = {low"))]
    with pytest.raises(DataError) as error:
        read_space(write(tmp_path, "\n".join(wrong)), TrainConfig())
    assert [problem.pointer for problem in error.value.problems] == ["learning_rat", "epochs", "schedule"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_space(tmp_path / "none.toml", TrainConfig())


def test_only_values_that_the_space_holds_are_started_from() -> None:
    space = {
        "learning_rate": Interval(low=1e-3, high=1e-2),
        "epochs": Interval(low=1, high=50),
        "d3.ood_target": Choices(choices=("class",)),
        "schedule": Choices(choices=("constant", "cosine")),
    }
    assert start(space, TrainConfig()) == {"epochs": TrainConfig().epochs, "schedule": "constant"}


def test_suggestions_are_within_and_of_the_settings_type() -> None:
    space: dict[str, Any] = {
        "epochs": Interval(low=2, high=5),
        "generator.hidden": Interval(low=2, high=64, log=True),
        "learning_rate": Interval(low=1e-4, high=1e-2, log=True),
        "d3.ood_target": Choices(choices=("class", "domain")),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        values = {name: found.suggest(trial, name) for name, found in space.items()}
        config = TrainConfig.from_json(nested(values))
        assert 2 <= config.epochs <= 5
        assert 2 <= config.generator.hidden <= 64
        assert 1e-4 <= config.learning_rate <= 1e-2
        seen.add((config.epochs, config.d3.ood_target))
    assert len(seen) == 8
