"""The rules, alerts and the dashboard in ops/deploy, and the runbooks behind the alerts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "ops/deploy/prometheus"
DASHBOARD = ROOT / "ops/deploy/grafana/syncledger.json"
NAMED = re.compile(r"\bsyncledger_\w+")
SUFFIXES = re.compile(r"_(bucket|count|sum)$")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def rules(name: str) -> list[dict[str, Any]]:
    read = yaml.safe_load((PROMETHEUS / name).read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    panels = msgspec.json.decode(DASHBOARD.read_bytes())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return shown + [rule["expr"] for name in ("rules.yml", "alerts.yml") for rule in rules(name)]


def documented() -> set[str]:
    return set(re.findall(r"^\| `(syncledger_\w+)` \|", (ROOT / "ops/docs/metrics.md").read_text(), re.MULTILINE))


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_takes_rules_and_configuration() -> None:
    promtool("check", "rules", "rules.yml", "alerts.yml")
    promtool("check", "config", "--syntax-only", "prometheus.yml")


@needs_promtool
def test_each_alert_fires_behind_its_fault_and_not_before() -> None:
    files = [path.name for path in PROMETHEUS.glob("*.test.yml")]
    promtool("test", "rules", *files)
    tested = {test["name"] for name in files for test in yaml.safe_load((PROMETHEUS / name).read_text())["tests"]}
    assert tested == {rule["alert"] for rule in rules("alerts.yml")}


def test_each_alert_leads_to_a_paragraph_of_the_runbooks() -> None:
    runbooks = (ROOT / "ops/docs/runbooks.md").read_text()
    paragraphs = dict(re.findall(r"^## (\w+)\n\n(.+?)$", runbooks, re.MULTILINE))
    alerts = {rule["alert"]: rule for rule in rules("alerts.yml")}
    assert paragraphs.keys() == alerts.keys()
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"ops/docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket", "info")


def test_every_metric_that_is_asked_for_is_documented() -> None:
    named = {SUFFIXES.sub("", name) for text in expressions() for name in NAMED.findall(text)}
    assert len(named) > 30
    assert named <= documented()


def test_every_recorded_figure_that_is_asked_for_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules("rules.yml")}
    named = {name for text in expressions() for name in re.findall(r"\bsyncledger:[\w:]+", text)}
    assert named <= recorded
