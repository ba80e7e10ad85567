"""What can be said of the files of deployments without an engine: they parse, fit together and hold no secret."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.deployments import ROOT
from tests.docker.monitoring import METRIC, dashboard, panels, quantities, records, rules, shown
from tests.pages import section

COMPOSE = ROOT / "docker-compose.yml"
OPERATIONS = ROOT / "docs" / "operations.md"
PROFILES = {"gpu", "replicas", "monitoring", "train"}
FILES = [
    COMPOSE,
    *(
        path
        for path in sorted((ROOT / "docker").rglob("*"))
        if path.is_file() and path.parent.name not in ("secrets", "__pycache__")
    ),
]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def image_of(service: str) -> str:
    image: str = services()[service]["image"]
    return image


# --- Compose ----------------------------------------------------------------------------------------------------------


def test_the_profiles_are_these_and_the_service_needs_none() -> None:
    named = {name: set(service.get("profiles", ())) for name, service in services().items()}
    assert set().union(*named.values()) == PROFILES
    assert [name for name, profiles in named.items() if not profiles] == ["service"]
    for name, service in services().items():  # what a service waits for is there whenever it is
        for needed in service.get("depends_on", ()):
            assert named[needed] <= named[name], f"{name} needs {needed}"


def test_everything_is_published_on_this_machine_only_and_the_database_nowhere() -> None:
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert len(published) == len(set(published)) == 5
    assert [port for port in published if not re.fullmatch(r"127\.0\.0\.1:\$\{D3GZSL_\w+_PORT:-\d+\}:\d+", port)] == []
    defaults = [re.search(r":-(\d+)", port)[1] for port in published]  # type: ignore[index]
    assert max(Counter(defaults).values()) == 1  # all profiles fit on one machine
    assert "ports" not in services()["postgres"]
    assert services()["postgres"]["networks"] == ["database"]
    assert compose()["networks"]["database"]["internal"] is True
    assert [name for name, s in services().items() if "database" in s.get("networks", ())] == ["replica", "postgres"]


@pytest.mark.parametrize("name", ["service", "gpu", "replica", "train"])
def test_our_containers_can_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(services()))
def test_no_service_may_gain_privileges_and_all_end_in_time(name: str) -> None:
    service = services()[name]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    if name in ("service", "gpu", "replica"):
        assert int(service["stop_grace_period"].removesuffix("s")) >= 20 + 5  # --grace-period, and MARGIN behind it


def test_images_are_pinned() -> None:
    built = {name for name, service in services().items() if "build" in service}
    assert built == {"service", "gpu", "replica", "train"}
    for name in set(services()) - built:
        assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)*(-\w+)?", image_of(name)), image_of(name)
    for file in (ROOT / "docker").glob("*.Dockerfile"):
        bases = re.findall(r"^(?:ARG PYTHON=|FROM )(\S+)", file.read_text(), re.MULTILINE)
        assert {base for base in bases if base != "${PYTHON}"} == {"python:3.11-slim-bookworm"}


def test_the_pins_of_the_images_exist() -> None:
    chosen = {
        service["build"]["args"]["REQUIREMENTS"]
        for service in services().values()
        if "args" in service.get("build", {})
    }
    default = re.search(r"^ARG REQUIREMENTS=(\S+)", (ROOT / "docker" / "service.Dockerfile").read_text(), re.MULTILINE)
    assert default is not None
    for file in {*chosen, default[1], "training.txt"}:
        assert (ROOT / "requirements" / file).is_file()


def test_files_that_are_mounted_exist() -> None:
    sources = [v.split(":")[0] for s in services().values() for v in s.get("volumes", ()) if v.startswith("./")]
    assert len(sources) >= 4
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert (ROOT / "docker" / "empty-secret").read_bytes() == b""


def test_no_file_holds_a_secret() -> None:
    secret = re.compile(
        r"(?i)(password|passwd|secret|token|credentials|_key)\b['\"]?[ \t]*[:=][ \t]*['\"]?"
        r"(?!\$|/run/|/etc/|false\b)[\w+/-]{4,}"
    )
    ours = re.compile(r"d3g_[\w-]{20,}|(?:classify|admin):[0-9a-f]{64}|://[^/\s:@]+:[^@\s/]+@")
    for file in FILES:
        found = secret.findall(file.read_text()) + ours.findall(file.read_text())
        assert found == [], f"{file}: {found}"
    assert secret.search("POSTGRES_PASSWORD: hunter2hunter2")  # the search finds what it should
    assert ours.search("postgresql://me:hunter2@host/db")


def test_secrets_stay_out_of_version_control_and_of_images() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "docker/secrets/database-password"], cwd=ROOT, capture_output=True, check=False
    )
    assert ignored.returncode == 0
    assert (ROOT / ".dockerignore").read_text().splitlines()[-1] == "docker/secrets"


def test_every_variable_of_compose_is_documented_with_its_default() -> None:
    page = section(OPERATIONS.read_text(), "Docker Compose")
    variables = dict(re.findall(r"\$\{(\w+)(?::-([^}]*))?\}", COMPOSE.read_text()))
    assert len(variables) >= 10
    assert [name for name in variables if f"`{name}`" not in page] == []
    for port in re.findall(r"_PORT:-(\d+)", COMPOSE.read_text()):
        assert f"`{port}`" in page


# --- monitoring -------------------------------------------------------------------------------------------------------


def test_every_metric_of_the_service_is_shown_or_watched() -> None:
    page = (ROOT / "docs" / "running.md").read_text()
    documented = set(re.findall(r"^\| `(d3gzsl_\w+)`", page, re.MULTILINE))
    text = "\n".join([*shown().values(), *records().values(), *quantities().values()])
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in METRIC.findall(text)}
    assert len(documented) >= 20
    assert sorted(documented - used) == []


def test_every_alert_is_explained() -> None:
    text = section(OPERATIONS.read_text(), "Monitoring")
    for rule in rules("alerts.yml"):
        assert f"| `{rule['alert']}` |" in text, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
    tests = yaml.safe_load((ROOT / "docker" / "prometheus" / "tests.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules("alerts.yml")}


def test_prometheus_and_grafana_name_each_other_and_files_that_exist() -> None:
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
    assert [file for file in config["rule_files"] if not (ROOT / "docker" / "prometheus" / file).is_file()] == []
    (scraped,) = config["scrape_configs"]
    assert scraped["job_name"] == "d3gzsl"
    assert set(scraped["dns_sd_configs"][0]["names"]) <= set(services())
    (source,) = yaml.safe_load((ROOT / "docker" / "grafana" / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((ROOT / "docker" / "grafana" / "dashboards" / "provider.yml").read_text())["providers"]
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert (ROOT / "docker" / "grafana" / "dashboards" / Path(home).name).is_file()


def test_the_dashboard_has_the_form_that_grafana_reads() -> None:
    """The fields of Grafana's dashboard JSON that are used here; Grafana itself reads it nowhere in the tests."""
    board = dashboard()
    assert (board["uid"], board["schemaVersion"] >= 39, board["editable"]) == ("d3gzsl", True, False)
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert {name: variable["type"] for name, variable in variables.items()} == {
        "datasource": "datasource",
        "deployment": "query",
    }
    every = board["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["type"] in ("timeseries", "stat", "heatmap", "table")
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {"defaults", "overrides"} == set(panel["fieldConfig"])
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))
        for target in panel["targets"]:
            assert 'deployment=~"$deployment"' in target["expr"], panel["title"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}


def test_the_dashboard_shows_what_operators_ask_for() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == [
        "At a glance",
        "Traffic",
        "Latency",
        "Queue and batches",
        "Refusals",
        "Registry",
        "Process",
    ]
