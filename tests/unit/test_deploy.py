"""The manifests of the cluster: valid by their schema, hardened, and in agreement."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pantheon.config import StudentConfig, TeacherConfig, load

ROOT = Path(__file__).parents[2]
VERSIONS = ("1.29", "1.33")
"""Releases of Kubernetes whose schema the manifests must follow."""

DOCUMENTS: list[dict[str, Any]] = [
    document
    for file in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (d for d in DOCUMENTS if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


PODS = [
    pytest.param(document["spec"]["template"], id=document["metadata"]["name"])
    for document in DOCUMENTS
    if document["kind"] in ("Job", "Deployment")
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "document", [pytest.param(d, id=f"{d['kind']}-{d['metadata']['name']}") for d in DOCUMENTS]
)
def test_a_manifest_follows_the_schema(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_key_does_not_follow_the_schema() -> None:
    wrong = copy.deepcopy(named("Deployment", "teacher"))
    wrong["spec"]["replica"] = wrong["spec"].pop("replicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("template", PODS)
def test_a_pod_is_not_root_and_writes_to_volumes_only(template: dict[str, Any]) -> None:
    pod = template["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"] + pod.get("initContainers", []):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_service_is_not_root_and_writes_to_volumes_only(service: str) -> None:
    values = COMPOSE["services"][service]
    assert values["user"] == "10001:10001"
    assert values["read_only"] is True
    assert values["cap_drop"] == ["ALL"]
    assert values["security_opt"] == ["no-new-privileges:true"]
    assert COMPOSE["networks"] == {"knowledge": {"internal": True}}


def test_the_student_finds_the_teachers_by_the_name_of_their_service() -> None:
    folder = ROOT / "examples" / "compose"
    student = load(folder / "student.yaml", StudentConfig)
    assert student.teachers["a"] == "dns://teacher:5557"
    assert "tcp://0.0.0.0:5557" in COMPOSE["services"]["teacher"]["command"]
    service = named("Service", "teacher")["spec"]
    template = named("Deployment", "teacher")["spec"]["template"]
    assert service["clusterIP"] == "None"
    assert service["ports"][0]["port"] == 5557
    assert service["selector"] == template["metadata"]["labels"]
    for name in ("teacher-a", "teacher-b"):
        assert load(folder / f"{name}.yaml", TeacherConfig).deterministic


def test_a_policy_lets_students_ask_teachers_and_monitoring_watch_them_and_nobody_else() -> None:
    assert named("NetworkPolicy", "nobody")["spec"]["podSelector"] == {}
    asking, watching = named("NetworkPolicy", "teacher")["spec"]["ingress"]
    (container,) = named("Deployment", "teacher")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    student = named("Job", "student")["spec"]["template"]["metadata"]["labels"]
    assert [peer["podSelector"]["matchLabels"] for peer in asking["from"]] == [student]
    assert [port["port"] for port in asking["ports"]] == [ports["knowledge"]]
    assert all("namespaceSelector" in peer for peer in watching["from"])
    assert [port["port"] for port in watching["ports"]] == [ports["http"]]


def test_a_teacher_is_probed_where_it_says_how_it_is() -> None:
    (container,) = named("Deployment", "teacher")["spec"]["template"]["spec"]["containers"]
    paths = {k: container[f"{k}Probe"]["httpGet"]["path"] for k in ("readiness", "liveness")}
    assert paths == {"readiness": "/readyz", "liveness": "/healthz"}
    (port,) = [p["containerPort"] for p in container["ports"] if p["name"] == "http"]
    assert f"--http=0.0.0.0:{port}" in container["args"]
    composed = COMPOSE["services"]["teacher"]
    (where,) = re.findall(r"--http (127\.0\.0\.1:\d+)", composed["command"])
    assert f"http://{where}/readyz" in composed["healthcheck"]["test"][-1]
