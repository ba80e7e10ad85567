"""The manifests of Kubernetes fit its schemas, each other, and what the service needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.docker.deployments import ROOT

FOLDER = ROOT / "docker" / "kubernetes"
BUILT = ("base", "overlays/postgres", "overlays/gpu")
VERSIONS = ("1.31", "1.34")
Documents = list[dict[str, Any]]


def kustomizations() -> list[Path]:
    return sorted(FOLDER.rglob("kustomization.yaml"))


def documents(folder: Path) -> Documents:
    """The resources that a kustomization names, as they are written."""
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [d for name in named if name.endswith(".yaml") for d in yaml.safe_load_all((folder / name).read_text())]


def written() -> Documents:
    return [document for file in kustomizations() for document in documents(file.parent)]


def one(found: Documents, kind: str, name: str = "d3gzsl") -> dict[str, Any]:
    (document,) = [d for d in found if d["kind"] == kind and d["metadata"]["name"] == name]
    return document


def build(folder: str) -> Documents:
    """What kustomize makes of a folder; skips where there is no kustomize."""
    program = [path] if (path := shutil.which("kustomize")) else None
    if program is None and (kubectl := shutil.which("kubectl")):
        program = [kubectl, "kustomize"]
    if program is None:
        pytest.skip("needs kubectl or kustomize")
    words = [*program, *(["build"] if len(program) == 1 else []), str(FOLDER / folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_fits_the_schemas(version: str) -> None:
    found = written()
    assert {d["kind"] for d in found} >= {
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "StatefulSet",
    }
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_find_mistakes() -> None:
    document = one(written(), "Deployment")
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize("folder", BUILT)
def test_what_kustomize_builds_fits_the_schemas_and_itself(folder: str) -> None:
    found = build(folder)
    for document in found:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    assert len({(d["kind"], d["metadata"]["name"]) for d in found}) == len(found)
    deployment = one(found, "Deployment")
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert one(found, "Service")["spec"]["selector"].items() <= labels
    assert one(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    assert one(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert one(found, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    settings = one(found, "ConfigMap", container["envFrom"][0]["configMapRef"]["name"])["data"]
    assert {name.removeprefix(PREFIX).lower() for name in settings} <= set(Settings.model_fields)
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for name in ("D3GZSL_KEYS_FILE", "D3GZSL_DATABASE_PASSWORD_FILE"):
        assert any(settings[name].startswith(f"{mount}/") for mount in mounts)
    assert ":" in container["image"]


def test_the_overlay_of_the_gpu_asks_for_one_and_uses_it() -> None:
    (container,) = one(build("overlays/gpu"), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("d3gzsl-service-gpu:")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "D3GZSL_PROVIDER", "value": "cuda"} in container["env"]


def test_only_the_service_reaches_the_database_of_the_overlay() -> None:
    found = build("overlays/postgres")
    policy = one(found, "NetworkPolicy", "postgres")["spec"]
    pod = one(found, "StatefulSet", "postgres")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= pod.items()
    assert "egress" not in policy
    (rule,) = policy["ingress"]
    (source,) = rule["from"]
    service = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= service.items()
    assert not source["podSelector"]["matchLabels"].items() <= pod.items()


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "d3gzsl"), ("StatefulSet", "postgres")])
def test_pods_can_do_little(kind: str, name: str) -> None:
    pod = one(written(), kind, name)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_a_pod_ends_after_its_requests_and_before_it_is_killed() -> None:
    spec = one(written(), "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = Settings.model_fields["grace_period"].default
    assert spec["terminationGracePeriodSeconds"] > pause + grace + 5
    assert one(written(), "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_gives() -> None:
    (metric,) = one(written(), "HorizontalPodAutoscaler")["spec"]["metrics"]
    (rule,) = yaml.safe_load((FOLDER / "monitoring" / "adapter-values.yaml").read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith(metric["pods"]["metric"]["name"])


def test_no_manifest_holds_a_secret() -> None:
    assert [d["metadata"]["name"] for d in written() if d["kind"] == "Secret"] == []
    for file in kustomizations():
        assert "secretGenerator" not in yaml.safe_load(file.read_text())
