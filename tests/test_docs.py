"""The documentation knows everything that there is, and nothing that there is not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from model.bundle import Bundle
from service.cli import app as service_cli
from service.http import class_schemas, problems, schemas
from service.server.app import create_app
from service.service import Service
from service.settings import PREFIX, Settings
from tests.pages import PAGES, README, ROOT, anchors, blocks, calls, inline, rows, section
from tests.service.tiny import tiny_bundle
from training.cli import app as training_cli

RUNNING_PAGE = ROOT / "docs" / "running.md"
HTTP_PAGE = ROOT / "docs" / "http-api.md"
COMMANDS_PAGE = ROOT / "docs" / "commands.md"
BUNDLE_PAGE = ROOT / "docs" / "bundle.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CHANGELOG = ROOT / "CHANGELOG.md"
RESULTS = tuple(sorted((ROOT / "benchmarks" / "results").glob("*.md")))
WITH_PLACES = (*PAGES, CONTRIBUTING)
WITH_LINKS = (*WITH_PLACES, CHANGELOG, *RESULTS)
MAX_README_LINES = 120
PROGRAMS = {"d3gzsl": typer.main.get_command(service_cli), "d3gzsl-train": typer.main.get_command(training_cli)}
EVERYTHING = "\n".join(page.read_text() for page in PAGES)
PAGE_IDS = [page.name for page in PAGES]
_ENDPOINT = re.compile(r"^(GET|POST|PUT|PATCH|DELETE) (/\S*)$")
_PLACE = re.compile(r"^(?:benchmarks|docker|docs|model|requirements|service|tests|training)/[\w./-]*$")


# --- commands ---------------------------------------------------------------------------------------------------------


def commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that can be called, with its full name."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield name, command
        return
    for word, subcommand in subcommands.items():
        yield from commands(f"{name} {word}", subcommand)


COMMANDS = dict(pair for name, program in PROGRAMS.items() for pair in commands(name, program))


def option_names(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def find(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that a line calls, its full name, and the words left for it; AssertionError where it has none."""
    program, *rest = words
    command, name = PROGRAMS[program], program
    while (subcommands := getattr(command, "commands", None)) is not None:
        if not rest or rest[0].startswith("-"):
            break
        assert rest[0] in subcommands, f"`{' '.join(words)}`: {name} has no command {rest[0]!r}"
        command, name, rest = subcommands[rest[0]], f"{name} {rest[0]}", rest[1:]
    return command, name, rest


def check_call(words: list[str]) -> None:
    """Parse a line as the program would, without running it."""
    command, name, rest = find(words)
    try:
        command.make_context(name, list(rest))
    except Exception as error:  # typer's own classes for whatever is wrong with a line
        raise AssertionError(f"`{' '.join(words)}`: {getattr(error, 'message', error)}") from None


def test_the_walk_finds_the_commands() -> None:
    assert {"d3gzsl serve", "d3gzsl classes add", "d3gzsl-train fit"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b(?!-)", EVERYTHING), f"no page says a word about `{name}`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented(name: str) -> None:
    pages = (COMMANDS_PAGE, RUNNING_PAGE, BUNDLE_PAGE) if name.startswith("d3gzsl ") else (COMMANDS_PAGE,)
    text = "\n".join(page.read_text() for page in pages)
    options = {option for option in option_names(COMMANDS[name]) if option.startswith("--")}
    assert sorted(option for option in options if not re.search(rf"{option}(?![\w-])", text)) == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_every_line_of_a_shell_block_can_be_called(page: Path) -> None:
    for words in calls(page.read_text()):
        check_call(words)


MISTAKES = ("d3gzsl serve --prot 1", "d3gzsl serve --port x", "d3gzsl classes ad x", "d3gzsl bundle inspect")


@pytest.mark.parametrize("line", MISTAKES)
def test_the_check_of_lines_finds_mistakes(line: str) -> None:
    with pytest.raises(AssertionError):
        check_call(line.split())


def test_the_pages_with_commands_have_lines_to_check() -> None:
    assert len(calls(README.read_text())) >= 4
    assert len(calls(RUNNING_PAGE.read_text())) >= 4
    assert len(calls(COMMANDS_PAGE.read_text())) >= 30


def test_commands_stand_in_the_table_of_commands() -> None:
    table = {row[0].partition("](")[0].strip("[`") for row in rows(COMMANDS_PAGE.read_text())}
    assert sorted(name for name in COMMANDS if not {name, name.rpartition(" ")[0]} & table) == []


@pytest.mark.parametrize("page", WITH_PLACES, ids=lambda page: page.name)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    text = page.read_text()
    known = {option for command in COMMANDS.values() for option in option_names(command)}
    known |= {option for program in PROGRAMS.values() for option in option_names(program)} | {"--help"}
    for code in inline(text):
        words = code.split()
        if words[0] in PROGRAMS:
            command, _, rest = find(words)
            assert {word for word in rest if word.startswith("--")} <= option_names(command) | {"--help"}, code
        if words[0].startswith("--"):
            assert words[0].partition("=")[0] in known, code


@pytest.mark.parametrize("page", WITH_PLACES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    shell = "\n".join(blocks(text, "sh"))
    named = set(re.findall(r"^make ([\w-]+)", shell, re.MULTILINE))
    named |= {code.split()[1] for code in inline(text) if code.startswith("make ")}
    assert named <= targets


# --- endpoints --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("docs") / "tiny")


@pytest.fixture(scope="module")
def openapi(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            environment.delenv(name)
        service = Service.open(Settings(bundle=tiny, data_dir=tmp_path_factory.mktemp("data"), threads=1))
    try:
        document: dict[str, Any] = create_app(service).openapi()
    finally:
        service.close()
    return document


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Operations by method and path."""
    return {f"{method.upper()} {path}": item for path, at in document["paths"].items() for method, item in at.items()}


def endpoints(text: str) -> set[str]:
    return {code for code in inline(text) if _ENDPOINT.match(code)}


def test_every_endpoint_is_in_the_table(openapi: dict[str, Any]) -> None:
    table = {row[0] for row in rows(section(HTTP_PAGE.read_text(), "Endpoints"))}
    assert len(operations(openapi)) >= 12
    assert sorted(set(operations(openapi)) - table) == []


@pytest.mark.parametrize("page", WITH_PLACES, ids=lambda page: page.name)
def test_endpoints_that_are_named_exist(page: Path, openapi: dict[str, Any]) -> None:
    beside = {"GET /", "GET /docs", "GET /openapi.json"}  # pages, which the document of the API leaves out
    assert sorted(endpoints(page.read_text()) - set(operations(openapi)) - beside) == []


def test_every_parameter_is_documented(openapi: dict[str, Any]) -> None:
    text = HTTP_PAGE.read_text()
    named = {row[0] for row in rows(text)} | {row[0].partition(":")[0] for row in rows(text)}
    parameters = {p["name"] for o in operations(openapi).values() for p in o.get("parameters", ()) if p["in"] != "path"}
    assert {"top_k", "cursor", "If-Match"} <= parameters
    assert sorted(parameters - named) == []


ANSWERS: tuple[type[BaseModel], ...] = (
    schemas.ClassifyAnswer,
    schemas.Explanation,
    class_schemas.ChangedClass,
    class_schemas.ClassAnswer,
    class_schemas.ClassPage,
    class_schemas.BatchAnswer,
    schemas.AttributeList,
    schemas.BundleExampleList,
    schemas.RegistryAnswer,
    schemas.VersionPage,
    schemas.VersionAnswer,
    schemas.ProblemDocument,
    schemas.JsonImages,
)


def fits(model: type[BaseModel], document: Any) -> bool:
    """Whether a document has every field of the model and no other."""
    try:
        return model.model_validate(document).model_dump(mode="json", exclude_unset=True) == document
    except ValidationError:
        return False


def test_json_examples_are_answers_of_the_service() -> None:
    examples = [json.loads(block) for block in blocks(EVERYTHING, "json")]
    shown = {model for example in examples for model in ANSWERS if fits(model, example)}
    assert [example for example in examples if not any(fits(model, example) for model in ANSWERS)] == []
    assert {schemas.ClassifyAnswer, schemas.Explanation, class_schemas.ChangedClass, schemas.ProblemDocument} <= shown


def test_every_field_of_an_answer_is_explained() -> None:
    text = section(HTTP_PAGE.read_text(), "Classify")
    explained = {name.strip("` ") for row in rows(text) for name in row[0].split(",")} | {"class_id", "id", "name"}
    models = (schemas.ClassifyAnswer, schemas.ImageAnswer, schemas.Prediction)
    fields = {name for model in models for name in model.model_fields}
    assert sorted(fields - explained - {"kind"}) == []


# --- settings and problems --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_table(name: str) -> None:
    table = {row[0]: row for row in rows(section(RUNNING_PAGE.read_text(), "Settings"))}
    variable, flag = PREFIX + name.upper(), f"--{name.replace('_', '-')}"
    assert variable in table, f"{variable} is not documented"
    assert table[variable][1] == flag
    assert flag in option_names(COMMANDS["d3gzsl serve"])
    default = Settings.model_fields[name].default
    if default not in (None, (), PydanticUndefined):
        assert table[variable][2] == (str(default).lower() if isinstance(default, bool) else str(default))


def test_no_other_variable_is_named() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    known |= set(re.findall(r"\$\{(D3GZSL_\w+)", (ROOT / "docker-compose.yml").read_text()))
    known |= {p.envvar for command in COMMANDS.values() for p in command.params if getattr(p, "envvar", None)}
    assert sorted(set(re.findall(r"\bD3GZSL_[A-Z_]+", EVERYTHING)) - known) == []


def test_the_table_of_problems_is_that_of_the_service() -> None:
    kinds = {*problems.PROBLEM_TYPES.values(), *problems._BY_STATUS.values()}
    table = rows(section(HTTP_PAGE.read_text(), "Problems"))[1:]
    assert [row[:3] for row in table if len(row) != 4] == []
    documented = [(row[0], row[1], row[2]) for row in table]
    assert len(documented) == len(set(documented))
    assert set(documented) == {(str(kind.status), kind.name, kind.title) for kind in kinds}


# --- links and places -------------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert file.is_file() or any(file.iterdir()), f"{page.name}: {target} is empty"
        assert not anchor or anchor in anchors(file.read_text()), f"{page.name}: no heading for {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md|CONTRIBUTING\.md)", README.read_text()))
    assert linked == {"CONTRIBUTING.md", *(f"docs/{page.name}" for page in PAGES if page != README)}


@pytest.mark.parametrize("drawing", sorted((ROOT / "docs").glob("*.svg")), ids=lambda drawing: drawing.name)
def test_drawings_are_xml_that_loads_and_runs_nothing(drawing: Path) -> None:
    root = ElementTree.fromstring(drawing.read_text())  # our own files
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    attributes = {name.rpartition("}")[2] for element in root.iter() for name in element.attrib}
    assert not names & {"script", "image", "foreignObject", "use"}
    assert not attributes & {"href", "src"}
    assert not re.search(r"@import|url\((?!#)", drawing.read_text())


@pytest.mark.parametrize("page", WITH_PLACES, ids=lambda page: page.name)
def test_files_and_folders_that_are_named_exist(page: Path) -> None:
    named = {code for code in inline(page.read_text()) if _PLACE.match(code) and "NAME" not in code}
    assert sorted(place for place in named if not (ROOT / place).exists()) == []


def test_the_page_of_the_architecture_names_places() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert len({code for code in inline(text) if _PLACE.match(code)}) >= 60


# --- the page of the bundle -------------------------------------------------------------------------------------------


def test_every_field_of_the_manifest_is_explained(tiny: Path) -> None:
    manifest = json.loads((tiny / "manifest.json").read_text())
    named = {row[0] for row in rows(section(BUNDLE_PAGE.read_text(), "Manifest"))}
    assert {*manifest, "text_encoder"} == named - {"field"}  # which the tiny bundle is without
    explained = set(inline(section(BUNDLE_PAGE.read_text(), "Manifest")))
    for part in ("preprocess", "backbone", "vocabulary", "head", "calibration"):
        assert sorted(set(manifest[part]) - explained) == []
    assert sorted(set(manifest["vocabulary"]["attributes"][0]) - explained) == []
    assert sorted(set(manifest["classes"][0]) - explained) == []


def test_every_file_of_a_bundle_is_explained(tiny: Path) -> None:
    files = {str(file.relative_to(tiny)) for file in tiny.rglob("*") if file.is_file()}
    named = {row[0] for row in rows(section(BUNDLE_PAGE.read_text(), "Files"))}
    optional = {"trunk_int8.onnx", "text_encoder.onnx", "tokenizer.json"}  # which the tiny bundle is without
    assert {re.sub(r"^examples/.*", "examples/*", name) for name in files} | optional == named - {"file"}


def test_the_example_in_python_gives_the_row_of_the_bundle(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "BUNDLE").symlink_to(tiny)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(BUNDLE_PAGE.read_text(), "python")
    names: dict[str, Any] = {}
    exec(compile(code, str(BUNDLE_PAGE), "exec"), names)
    bundle = Bundle.load(tiny)
    np.testing.assert_allclose(names["row"].weight, bundle.weight[-1], rtol=1e-5, atol=1e-5)
    assert names["row"].bias == pytest.approx(float(bundle.bias[-1]), rel=1e-5)


# --- the fault suite --------------------------------------------------------------------------------------------------


def test_every_test_of_the_fault_suite_is_there() -> None:
    file, named = "", 0
    for path, name in re.findall(r"`(tests/[\w/.]+\.py)?::(\w+)", (ROOT / "docs" / "fault-suite.md").read_text()):
        file = path or file
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
        named += 1
    assert named > 50
