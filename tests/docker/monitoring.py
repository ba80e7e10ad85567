"""The expressions of the dashboard, the records and the alerts."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.docker.deployments import ROOT

PROMETHEUS = ROOT / "docker" / "prometheus"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "d3gzsl.json"
METRIC = re.compile(r"\bd3gzsl_[a-z_]+")
_COMPARISON = re.compile(r"(?P<quantity>.+) (?:<|>) [\d.]+")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Panels of the dashboard that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def shown() -> dict[str, str]:
    """Every expression of the dashboard by panel and letter, with Grafana's variables set."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$deployment", ".*")
        for panel in panels()
        for target in panel["targets"]
    }


def rules(file: str) -> list[dict[str, Any]]:
    """The rules of a file, of all groups."""
    return [rule for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"] for rule in group["rules"]]


def records() -> dict[str, str]:
    """Expressions by the name of their record."""
    return {rule["record"]: rule["expr"] for rule in rules("records.yml")}


def quantities() -> dict[str, str]:
    """By alert what it compares with a number; it has a value where nothing is wrong, too."""
    found = {}
    for rule in rules("alerts.yml"):
        comparison = _COMPARISON.fullmatch(rule["expr"])
        assert comparison is not None, f"{rule['alert']} compares nothing with a number"
        found[rule["alert"]] = comparison["quantity"]
    return found
