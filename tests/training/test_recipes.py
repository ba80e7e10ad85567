"""Recipes: every one resolves, says where it is from, and reaches the run; files, extension and what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from model.errors import DataError
from tests.pages import ROOT, rows, section
from tests.training.conftest import Command
from tests.training.tiny import SETTINGS
from training.commands.options import settled
from training.config import TrainConfig
from training.recipes import configured, known_recipes, load_recipe, merged
from training.runs.contents import CONFIG, REPORT, Trained, read_json

METHODS = ("wgan", "cegzsl", "tfvaegan", "diffusion")
DATA_SETS = ("awa1", "awa2", "cub", "sun", "flo", "apy")
PUBLISHED = {  # as the sources that the recipes name have them
    "awa1-wgan": {"learning_rate": 1e-5, "epochs": 30, "seed": 9182, "generator.seen_classification": 0.01},
    "awa2-wgan": {"learning_rate": 1e-5, "epochs": 30, "seed": 9182, "batch_size": 64, "generator.hidden": 4096},
    "cub-wgan": {"learning_rate": 1e-4, "epochs": 56, "seed": 3483, "generator.critic_steps": 5},
    "flo-wgan": {"learning_rate": 1e-4, "epochs": 80, "seed": 806, "generator.seen_classification": 0.1},
    "sun-wgan": {"learning_rate": 2e-4, "epochs": 40, "seed": 4115, "generator.gp_weight": 10.0},
    "awa1-cegzsl": {"epochs": 130, "seed": 9182, "generator.noise_dim": 0, "contrastive.comparator_hidden": 2048},
    "awa2-cegzsl": {"epochs": 130, "seed": 9182, "batch_size": 4096, "contrastive.instance_weight": 0.001},
    "cub-cegzsl": {"epochs": 450, "seed": 3483, "batch_size": 2048, "contrastive.class_temperature": 0.1},
    "flo-cegzsl": {"seed": 806, "generator.noise_dim": 512, "contrastive.comparator_hidden": 1024},
    "sun-cegzsl": {"epochs": 1000, "seed": 4115, "learning_rate": 5e-5, "contrastive.class_weight": 0.01},
    "awa2-tfvaegan": {"epochs": 120, "learning_rate": 1e-5, "vae.semantic_weight": 0.1, "vae.feedback": 0.01},
    "cub-tfvaegan": {"epochs": 300, "learning_rate": 1e-4, "vae.semantic_weight": 0.01, "vae.feedback": 1.0},
    "flo-tfvaegan": {"epochs": 500, "seed": 806, "vae.feedback": 0.5},
    "sun-tfvaegan": {"epochs": 400, "seed": 4115, "learning_rate": 1e-3},
    "faithful-cub-wgan": {"epochs": 2000, "seed": 2356, "batch_size": 256, "schedule": "published"},
    "faithful-cub-cegzsl": {"epochs": 2000, "seed": 3483, "batch_size": 2048, "d3.synthetic_per_class": 50},
}


def value(config: TrainConfig, name: str) -> Any:
    found: Any = config.to_json()
    for part in name.split("."):
        found = found[part]
    return found


# --- those of this package ----------------------------------------------------------------------------------------


def test_every_data_set_has_a_recipe_for_every_generator() -> None:
    wanted = {f"{data}-{method}" for data in (*DATA_SETS, "cpu") for method in METHODS}
    assert wanted <= set(known_recipes())


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_resolves_and_says_where_it_is_from(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.config.d3.embedding_size(2048) == 2048
    assert 10 < len(recipe.summary) < 90
    assert list(recipe.sources)[-1] == name
    for text in recipe.sources.values():
        assert "\n" not in text
        assert "  " not in text
    if name.rpartition("-")[2] in METHODS:
        assert recipe.config.generator.method == name.rpartition("-")[2]
    if name.endswith("diffusion"):
        assert not any("script" in text for text in recipe.sources.values())
        assert "Ours" in recipe.sources[name] or "ours" in recipe.sources[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name: str) -> None:
    config = load_recipe(name).config
    assert {setting: value(config, setting) for setting in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", ["faithful-cub-wgan", "faithful-cub-cegzsl"])
def test_faithful_recipes_have_every_switch_faithful(name: str) -> None:
    config = load_recipe(name).config
    forms = {field: form for field, form in config.to_json()["d3"].items() if field.endswith("_form")}
    assert len(forms) == 4
    assert set(forms.values()) == {"faithful"}
    assert (config.d3.ood_target, config.d3.embedding_init) == ("class", "normal")
    assert set(config.d3.weights().values()) == {1e-4}
    assert (config.generator.attribute_path, config.generator.averaging) == ("none", 0)
    assert config.d3.generator_share == config.d3.embedding_lr_factor == 1


def test_other_recipes_have_the_corrected_forms() -> None:
    for name in known_recipes():
        if not name.startswith("faithful"):
            d3 = load_recipe(name).config.d3
            assert {d3.kl_form, d3.be_form, d3.od_form} == {"corrected"}
            assert d3.cls_form == ("faithful" if name.startswith("paper") else "corrected")


def test_every_recipe_is_in_the_table() -> None:
    text = section((ROOT / "docs" / "training.md").read_text(), "Recipes")
    assert {name for row in rows(text)[1:] for name in row[0].replace("`", "").split(", ")} == set(known_recipes())


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_takes_the_settings_of_those_it_extends_in_order(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.toml").write_text('source = "from a"\nepochs = 3\nseed = 1\n[generator]\nhidden = 7\n')
    (tmp_path / "b.toml").write_text('source = "from b"\nepochs = 4\nsteps = 9\n[generator]\nnoise_dim = 5\n')
    whole = tmp_path / "c.toml"
    whole.write_text(
        'summary = "mine"\nextends = ["awa2-cegzsl", "base/a.toml", "b.toml"]\nsteps = 11\n'
        '[d3]\ncls_form = "faithful"\n'
    )
    recipe = load_recipe(str(whole))
    config = recipe.config
    assert (config.epochs, config.seed, config.steps) == (4, 1, 11)
    assert (config.generator.hidden, config.generator.noise_dim, config.generator.method) == (7, 5, "cegzsl")
    assert config.batch_size == load_recipe("awa2-cegzsl").config.batch_size
    assert config.d3.cls_form == "faithful"
    assert list(recipe.sources) == ["d3", "cegzsl", "awa2-cegzsl", "a.toml", "b.toml"]
    assert (recipe.name, recipe.summary) == ("c.toml", "mine")


def refused(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(DataError) as error:
        load_recipe(str(file))
    assert str(file) in str(error.value)
    return str(error.value)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    assert "TOML" in refused(file, "epochs = \n")
    assert "summary: expected text, got 3" in refused(file, "summary = 3\n")
    assert "extends: expected the name of a recipe or a list of names, got 1" in refused(file, "extends = 1\n")
    both = refused(file, "epochs = 0\nfoo = 1\n[generator]\nhidden = 'big'\n")
    assert "epochs: expected at least 1, got 0" in both
    assert "foo: no such setting" in both
    assert "generator.hidden: expected a whole number, got 'big'" in both


def test_a_recipe_that_extends_itself(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "./a.toml"\n')
    with pytest.raises(DataError, match=r"extends itself, through a\.toml and b\.toml"):
        load_recipe(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("name", ["awa", "awa2-wgan.toml", "d3/../d3", ""])
def test_an_unknown_recipe_lists_the_known_ones(name: str) -> None:
    with pytest.raises(DataError, match=r"awa2-cegzsl, .*cpu-wgan") as error:
        load_recipe(name)
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["faithful-cub-wgan", "awa2-cegzsl"])  # of one source, and of several
def test_resolved_text_is_a_recipe_with_the_same_settings(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "copy.toml").write_text(recipe.resolved_text(), encoding="utf-8")
    copy = load_recipe(str(tmp_path / "copy.toml"))
    assert copy.config == recipe.config
    assert copy.summary == recipe.summary
    assert copy.sources == {"copy.toml": "\n".join(f"{name}: {text}" for name, text in recipe.sources.items())}
    assert set(tomllib.loads(recipe.resolved_text())) == {"summary", "source", *recipe.config.to_json()}


# --- with other settings ------------------------------------------------------------------------------------------


def test_merged_keeps_both_and_prefers_the_second() -> None:
    base = {"a": 1, "s": {"x": 1, "y": 2}}
    assert merged(base, {"b": 3, "s": {"y": 4, "z": 5}}) == {"a": 1, "b": 3, "s": {"x": 1, "y": 4, "z": 5}}
    assert merged(base, {"s": 1, "a": {"n": 1}}) == {"a": {"n": 1}, "s": 1}
    assert base == {"a": 1, "s": {"x": 1, "y": 2}}


def test_order_is_defaults_recipe_generator_settings() -> None:
    recipe, config = settled("flo-cegzsl", "diffusion", ["epochs=5", "generator.hidden=6"])
    assert recipe is not None
    assert recipe.name == "flo-cegzsl"
    assert (config.generator.method, config.epochs, config.generator.hidden) == ("diffusion", 5, 6)
    assert (config.generator.noise_dim, config.seed) == (512, 806)
    assert config.diffusion == TrainConfig().diffusion
    assert settled("awa2-wgan", "cegzsl", ["generator.method=tfvaegan"])[1].generator.method == "tfvaegan"
    assert settled(None, None, []) == (None, TrainConfig())


def test_a_setting_in_place_of_a_section_of_the_recipe_is_refused() -> None:
    with pytest.raises(DataError, match="generator: expected a table of settings, got 3"):
        configured(["generator=3"], base=load_recipe("wgan").settings)


def test_unknown_generator() -> None:
    with pytest.raises(
        DataError, match=r"generator\.method: expected 'wgan', 'cegzsl', 'tfvaegan' or 'diffusion', got 'gan'"
    ):
        settled("cpu", "gan", [])


# --- commands -----------------------------------------------------------------------------------------------------


def test_fit_notes_its_recipe(run: Command, store_dir: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "run"
    tables = "".join(f"{setting}\n" for setting in SETTINGS)
    file.write_text(f'summary = "tiny"\nsource = "made <up> here"\n{tables}')
    arguments = ("fit", store_dir, "--recipe", file, "--generator", "diffusion", "--set", "epochs=1", "--out", out)
    status, _, errors = run(*arguments)
    assert status == 0, errors
    wanted = {"name": "mine.toml", "summary": "tiny", "source": {"mine.toml": "made <up> here"}}
    assert read_json(out / CONFIG)["recipe"] == wanted
    trained = Trained.load(out)
    assert trained.recipe == wanted
    assert (trained.config.epochs, trained.config.generator.method) == (1, "diffusion")
    assert trained.config.generator.hidden == 8
    assert "made &lt;up&gt; here" in (out / REPORT).read_text()


def test_unknown_recipe_on_the_command_line(run: Command, store_dir: Path, tmp_path: Path) -> None:
    status, _, errors = run("fit", store_dir, "--recipe", "awa3-wgan", "--out", tmp_path / "run")
    assert status == 2
    assert errors.startswith("error: recipe 'awa3-wgan': there is none; known are apy-cegzsl, ")
    assert not (tmp_path / "run").exists()


def test_recipes_are_listed(run: Command) -> None:
    status, printed, errors = run("recipes")
    assert (status, errors) == (0, "")
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines] == known_recipes()
    assert all(len(line) < 120 for line in lines)
    listed = json.loads(run("recipes", "--json")[1])["recipes"]
    assert [recipe["name"] for recipe in listed] == known_recipes()
    assert all(recipe["source"] and recipe["summary"] for recipe in listed)


def test_one_recipe_is_printed(run: Command, tmp_path: Path) -> None:
    status, printed, errors = run("recipes", "sun-tfvaegan")
    assert (status, errors) == (0, "")
    (tmp_path / "r.toml").write_text(printed)
    config = load_recipe("sun-tfvaegan").config
    assert load_recipe(str(tmp_path / "r.toml")).config == config
    fields = json.loads(run("recipes", "sun-tfvaegan", "--json")[1])
    assert TrainConfig.from_json(fields["config"]) == config
    assert list(fields["source"]) == ["d3", "tfvaegan", "sun-tfvaegan"]
    assert run("recipes", "sun")[0] == 2
