"""The profile `monitoring`: a real Prometheus finds the service, and every query of dashboard and alerts has data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.settings import EMBEDDED_BUNDLE
from tests.docker.deployments import Project, docker, has_image, project, stranger
from tests.docker.monitoring import quantities, records, rules, shown
from tests.docker.test_files import image_of

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200), pytest.mark.usefixtures("built")]


@pytest.fixture(scope="module")
def monitored(built: None) -> Iterator[Project]:
    """A service with Prometheus; without Grafana, whose image need not be there."""
    with project("monitoring", "monitoring") as running:
        if not has_image(image_of("prometheus")):
            pytest.skip(f"the engine has no image {image_of('prometheus')}")
        running.compose("up", "-d", "--no-build", "service", "prometheus")
        running.wait_until_healthy()
        yield running


def ask(monitored: Project, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{monitored.ports['D3GZSL_PROMETHEUS_PORT']}/api/v1/{path}"
    answer = httpx.get(url, params=parameters, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def wait_for(monitored: Project, expression: str) -> list[Any]:
    """The result of a query as soon as it has one, and nothing that is no number."""
    deadline = time.monotonic() + 90
    while True:
        try:
            result: list[Any] = ask(monitored, "query", query=expression)["result"]
        except httpx.TransportError:
            result = []
        if result and any(sample["value"][1] != "NaN" for sample in result):
            return result
        assert time.monotonic() < deadline, f"no data for {expression}\n{ask(monitored, 'targets')}"
        time.sleep(1)


def test_every_query_of_dashboard_and_alerts_has_data(monitored: Project) -> None:
    (up,) = wait_for(monitored, 'up{job="d3gzsl"} > 0')
    assert up["metric"]["deployment"] == "service"
    wait_for(monitored, "d3gzsl_ready")  # what was scraped before the first request is what rates begin from
    example, described = stranger(EMBEDDED_BUNDLE)
    assert monitored.request("POST", "/classes", json=described).status_code == 201

    def load(_: int) -> list[int]:
        statuses = []
        for _ in range(10):
            statuses.append(monitored.classify(EMBEDDED_BUNDLE / example.file).status_code)
            answer = monitored.request("POST", "/classify", content=b"no image", headers={"content-type": "image/png"})
            statuses.append(answer.status_code)
            time.sleep(0.5)  # over several scrapes
        return statuses

    with ThreadPoolExecutor(4) as pool:
        statuses = {status for found in pool.map(load, range(4)) for status in found}
    assert statuses == {200, 415}
    queries = {**shown(), **records(), **quantities()}
    results = {name: wait_for(monitored, expression) for name, expression in queries.items()}
    assert len(results) == len(queries) >= 40
    assert [float(sample["value"][1]) for sample in results["Registry version A"]] == [1.0]
    assert [float(sample["value"][1]) for sample in results["D3gzslReplicasDisagree"]] == [0.0]
    (memory,) = results["Memory A"]
    assert 50e6 < float(memory["value"][1]) < 4e9


def test_prometheus_knows_every_rule_and_none_fails_or_fires(monitored: Project) -> None:
    wait_for(monitored, "d3gzsl:up:count")
    found = [rule for group in ask(monitored, "rules")["groups"] for rule in group["rules"]]
    assert sorted(rule["name"] for rule in found) == sorted(
        rule.get("record") or rule["alert"] for file in ("records.yml", "alerts.yml") for rule in rules(file)
    )
    assert {rule["health"] for rule in found} == {"ok"}
    assert {rule["state"] for rule in found if rule["type"] == "alerting"} == {"inactive"}


def test_the_alerts_fire_when_they_should(monitored: Project) -> None:
    """Prometheus's own unit tests of rules, in `docker/prometheus/tests.yml`."""
    (container,) = monitored.containers("prometheus")
    # The file system is read-only but for the volume.
    told = docker(
        "exec", "--env", "TMPDIR=/prometheus", container, "promtool", "test", "rules", "/etc/prometheus/tests.yml"
    )
    assert "SUCCESS" in told
