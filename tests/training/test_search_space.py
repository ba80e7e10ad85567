"""Search spaces: the default one around any settings, those from files, and everything wrong with them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from model.errors import DataError
from training.config import TrainConfig
from training.recipes import configured, known_recipes, load_recipe, merged
from training.search.space import default_space, initial_values, nested, read_space, suggest


@pytest.mark.parametrize("name", known_recipes())
def test_the_default_space_is_valid_around_every_recipe(name: str) -> None:
    base = load_recipe(name).config
    space = default_space(base)
    assert {"learning_rate", "generator.hidden", "d3.embedding_lr_factor", "d3.generator_share"} <= set(space)
    assert ("generator.gp_weight" in space) == (base.generator.method != "diffusion")
    assert ("vae.weight" in space) == (base.generator.method == "tfvaegan")
    assert ("contrastive.class_weight" in space) == (base.generator.method == "cegzsl")
    assert TrainConfig.from_json(merged(base.to_json(), nested(initial_values(space, base)))) == base
    assert set(initial_values(space, base)) == set(space)
    for setting, values in space.items():
        if isinstance(values, CategoricalDistribution):
            ends = values.choices
        else:
            assert isinstance(values, FloatDistribution)
            ends = (values.low, values.high)
            assert 0 < values.low < values.high
        for end in ends:
            TrainConfig.from_json(merged(base.to_json(), nested({setting: end})))
        assert len(set(ends)) == len(ends)


def test_a_term_that_is_off_stays_off() -> None:
    base = configured(["d3.ood_distillation=0", "d3.label_distillation=0", "generator.hidden=1"])
    space = default_space(base)
    assert {"d3.ood_distillation", "d3.ood_target", "d3.label_distillation"}.isdisjoint(space)
    assert "d3.embedding_distillation" in space
    assert space["generator.hidden"] == CategoricalDistribution((1, 2))


def test_factors_end_at_1() -> None:
    space = default_space(configured(["d3.embedding_lr_factor=0.5", "d3.generator_share=1.0"]))
    assert space["d3.embedding_lr_factor"] == FloatDistribution(0.5 / 30, 1, log=True)
    assert space["d3.generator_share"] == FloatDistribution(0.01, 1, log=True)


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
        "learning_rate": FloatDistribution(1e-4, 1.0, log=True),
        "generator.hidden": IntDistribution(8, 64),
        "d3.ood_target": CategoricalDistribution(("domain", "class")),
        "d3.generator_share": CategoricalDistribution((0.0, 1e-3)),
        "vae.weight": FloatDistribution(0.0, 2.0),
    }
    share = space["d3.generator_share"]
    assert isinstance(share, CategoricalDistribution)
    assert [type(choice) for choice in share.choices] == [float, float]


BAD = {
    "learning_rat = {low = 1, high = 2}": "learning_rat: no such setting",
    "generator.hiden = {low = 1, high = 2}": "generator.hiden: no such setting",
    "generator = {choices = [1]}": "generator.choices: no such setting",
    "learning_rate = 3": "learning_rate: expected {low, high, log} or {choices}, got 3",
    "learning_rate = {low = 1e-3}": "learning_rate: expected {low, high, log} or {choices}",
    "learning_rate = {low = 1e-3, high = 1e-2, step = 1}": "expected {low, high, log} or {choices}",
    "learning_rate = {choices = [1e-3], low = 1e-4}": "expected {low, high, log} or {choices}",
    "learning_rate = {low = 1e-2, high = 1e-3}": "learning_rate: `low <= high` must hold, but got (low=0.01, ",
    "learning_rate = {low = 'a', high = 1}": "learning_rate: expected a number, got 'a'",
    "learning_rate = {low = 1e-3, high = inf}": "learning_rate: expected a finite number, got inf",
    "learning_rate = {low = 0, high = 1}": "learning_rate: expected a number above 0, got 0",
    "d3.generator_share = {low = 0, high = 1, log = true}": "d3.generator_share: `low > 0` must hold",
    "learning_rate = {low = 1e-3, high = 1e-2, log = 1}": "learning_rate: log: expected true or false, got 1",
    "epochs = {low = 1.5, high = 3}": "epochs: expected a whole number, got 1.5",
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
        "learning_rate": FloatDistribution(1e-3, 1e-2),
        "epochs": IntDistribution(1, 50),
        "d3.ood_target": CategoricalDistribution(("class",)),
        "schedule": CategoricalDistribution(("constant", "cosine")),
    }
    assert initial_values(space, TrainConfig()) == {"epochs": TrainConfig().epochs, "schedule": "constant"}


def test_suggestions_are_within_and_of_the_settings_type() -> None:
    space: dict[str, Any] = {
        "epochs": IntDistribution(2, 5),
        "generator.hidden": IntDistribution(2, 64, log=True),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "d3.ood_target": CategoricalDistribution(("class", "domain")),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        config = TrainConfig.from_json(nested(suggest(trial, space)))
        assert 2 <= config.epochs <= 5
        assert 2 <= config.generator.hidden <= 64
        assert 1e-4 <= config.learning_rate <= 1e-2
        seen.add((config.epochs, config.d3.ood_target))
    assert len(seen) == 8
