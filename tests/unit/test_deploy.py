"""The manifests of the cluster: valid by their schema, hardened, and in agreement."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pantheon.compress.search.address import address_of
from pantheon.compress.search.config import SearchConfig
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
    # The image of PostgreSQL knows its own user only.
    assert values["user"] == ("70:70" if service == "search-database" else "10001:10001")
    assert values["read_only"] is True
    assert values["cap_drop"] == ["ALL"]
    assert values["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in values
    assert COMPOSE["networks"] == {name: {"internal": True} for name in ("knowledge", "search")}
    volumes = {volume.partition(":")[0] for volume in values["volumes"]}
    assert {name for name in volumes if not name.startswith(".")} <= set(COMPOSE["volumes"])
    assert set(values.get("depends_on", {})) <= set(COMPOSE["services"])


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


def test_a_search_is_asked_for_and_shares_a_database_that_nobody_else_reaches() -> None:
    services = COMPOSE["services"]
    own = {name for name in services if name.startswith("search-")}
    assert {name for name in services if services[name].get("profiles") == ["search"]} == own
    assert {name for name in services if "search" in services[name]["networks"]} == own
    assert all(services[name]["networks"] == ["search"] for name in own)
    database, worker = services["search-database"], services["search-worker"]
    assert re.fullmatch(r"postgres:\d+-alpine", database["image"])
    assert worker["deploy"]["replicas"] == 2
    # The password is in a file, and on no command line.
    assert database["environment"]["POSTGRES_PASSWORD_FILE"] == "/password/word"
    assert not any("PASSWORD" in key and not key.endswith("_FILE") for key in
                   database["environment"])  # fmt: skip
    (script,) = worker["command"]
    (url,) = re.findall(r'export PANTHEON_SEARCH_STORAGE="(.*)"', script)
    assert address_of(url.replace("$$word", "0af3")).url == (
        "postgresql+pg8000://pantheon:0af3@search-database/search"
    )
    assert database["environment"]["POSTGRES_USER"] == "pantheon"
    assert database["environment"]["POSTGRES_DB"] == "search"
    assert script.splitlines()[-1] == "exec pantheon search /config/search.yaml"
    config = load(ROOT / "examples" / "compose" / "search.yaml", SearchConfig)
    assert config.stream.teachers["b"] == "/knowledge/b"
    assert "knowledge:/knowledge:ro" in worker["volumes"]
    assert config.folder.is_relative_to(worker["tmpfs"][0])


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
