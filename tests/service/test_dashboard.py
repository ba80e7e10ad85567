"""What the dashboard, the records and the alerts ask for are metrics of the service, with labels that they have."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.monitoring import METRIC, records, rules, shown
from tests.service.conftest import Client
from tests.service.tiny import photo

FROM_PROMETHEUS = {"deployment", "job", "instance"}


@pytest.mark.anyio
async def test_every_metric_that_is_asked_for_is_one_of_the_service(client: Client) -> None:
    await client.post("/classify", content=photo(1), headers={"content-type": "image/png"})
    await client.get("/classes/nobody")
    text = (await client.get("/metrics")).text
    there = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    labels = {
        sample.name: set(sample.labels) for family in text_string_to_metric_families(text) for sample in family.samples
    }
    expressions = {**shown(), **records(), **{rule["alert"]: rule["expr"] for rule in rules("alerts.yml")}}
    assert len(expressions) >= 40
    asked = {name for expression in expressions.values() for name in METRIC.findall(expression)}
    assert sorted(asked - there) == []
    for expression in expressions.values():
        for name, selector in re.findall(r"\b(d3gzsl_[a-z_]+)\{([^}]*)\}", expression):
            wanted = set(re.findall(r"(\w+)=", selector)) - FROM_PROMETHEUS
            assert wanted <= labels[name], expression
    recorded = {name for e in expressions.values() for name in re.findall(r"\bd3gzsl:[\w:]+", e)}
    assert recorded == set(records())  # each is used, and none is missing
