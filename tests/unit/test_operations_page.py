"""The page on operations names every metric that there is, and no other; its examples are valid."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from student_client.metrics import LoaderCollector
from student_client.stats import LoaderStats, TeacherStats
from teacher_server.dump_metrics import DumpProgress
from teacher_server.metrics import TeacherCollector
from teacher_server.stats import ModelStats, ServerStats

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
ALERT = {"alert", "expr", "annotations"}


def exposed() -> set[str]:
    """The names and kinds of all metrics, as a scrape has them."""
    registry = CollectorRegistry()
    served = ServerStats(models={"m": ModelStats()})
    registry.register(TeacherCollector(lambda: served, lambda: {"m": "r"}))
    learned = LoaderStats(teachers={"t": TeacherStats()})
    registry.register(LoaderCollector(lambda: learned))
    registry.register(DumpProgress())
    text = generate_latest(registry).decode()
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text)
    }


def test_the_page_has_every_metric_and_no_other() -> None:
    rows = re.findall(r"^\| `(pantheon_\w+)` \|", PAGE, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == exposed()


def blocks(name: str) -> list[object]:
    """The YAML blocks of the page whose first line names a file."""
    return [
        yaml.safe_load(text)
        for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
        if text.startswith(f"# {name}")
    ]


def test_the_scrape_is_prometheus_yaml() -> None:
    (scrape,) = blocks("prometheus.yml")
    assert isinstance(scrape, dict)
    assert scrape["rule_files"] == ["pantheon.rules.yml"]
    jobs = [job["job_name"] for job in scrape["scrape_configs"]]
    assert jobs == ["pantheon-teachers", "pantheon-students"]
    assert all(job["dns_sd_configs"] for job in scrape["scrape_configs"])


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    (rules,) = blocks("pantheon.rules.yml")
    assert isinstance(rules, dict)
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(found) >= 6
    for rule in found:
        assert rule.keys() >= ALERT
        assert rule.keys() <= ALERT | {"for"}
        assert rule["annotations"]["summary"]
        asked = re.findall(r"pantheon_\w+", rule["expr"])
        assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} <= exposed()
