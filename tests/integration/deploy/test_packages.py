"""What is in ops/deploy to install the service with: checked by the tools that know each format, and by the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from endpoints.health import routes as health_routes
from ops.settings.durations import parse_duration
from ops.settings.variables import VARIABLES, unknown_variables
from tests.integration.deploy.test_compose import interpolated
from tests.support.processes.proxies import FILES

DEPLOY: Final = FILES.parent
ROOT: Final = DEPLOY.parents[1]
DOCKERFILE: Final = DEPLOY / "docker" / "Dockerfile"
KUBERNETES: Final = DEPLOY / "kubernetes"
UNITS: Final = DEPLOY / "systemd"
NAMES: Final = {variable.name for variable in VARIABLES.values()}


def test_the_image_is_built_of_all_packages_and_of_what_a_lint_finds_no_fault_with() -> None:
    lint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([lint, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    lines = DOCKERFILE.read_text().splitlines()
    copied = {name for line in lines if re.match(r"COPY (?!--from)", line) for name in line.split()[1:-1]}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert copied == packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == copied
    assert "USER 10001:10001" in lines
    (asked,) = re.findall(r"127\.0\.0\.1:%s(/\w+)", DOCKERFILE.read_text())
    assert asked in {route.path for route in health_routes(None)}  # type: ignore[arg-type]


@pytest.mark.parametrize("file", sorted((DEPLOY / "compose").glob("*.yml")), ids=lambda file: file.name)
def test_compose_files_are_valid_and_set_what_there_is(file: Path) -> None:
    read = interpolated(yaml.safe_load(file.read_text()), {})
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    compose_spec.PyCompose.from_json(json.dumps(read))
    ledger = read["services"]["ledger"]
    assert set(ledger["environment"]) <= NAMES
    if "build" in ledger:
        folder = (file.parent / ledger["build"]["context"]).resolve()
        assert folder / ledger["build"]["dockerfile"] == DOCKERFILE


def objects() -> list[dict[str, Any]]:
    """Read what kustomize puts together."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", KUBERNETES], capture_output=True, text=True, timeout=60, check=True)
    return list(yaml.safe_load_all(done.stdout))


def test_every_manifest_is_an_object_of_kubernetes() -> None:
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]) == files
    for name in sorted(files):
        kubernetes_validate.validate(yaml.safe_load((KUBERNETES / name).read_text()), "1.32", strict=True)


def test_the_manifests_fit_together() -> None:
    by_kind = {each["kind"]: each for each in objects()}
    config = by_kind["ConfigMap"]["data"]
    assert unknown_variables(config) == []
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert str(ports["http"]) == config["LEDGER_PORT"]
    assert by_kind["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    probes = {container[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe", "startupProbe")}
    assert probes == {"/healthz", "/readyz"}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {config["LEDGER_DATA_DIR"], "/tmp"} == mounted
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] > pause + parse_duration(config["LEDGER_GRACE"])
    selector = by_kind["Deployment"]["spec"]["selector"]["matchLabels"]
    assert by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"] == selector
    assert by_kind["Service"]["spec"]["selector"] == selector
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        spec = by_kind[kind]["spec"]
        assert spec.get("selector", spec.get("podSelector"))["matchLabels"] == selector, kind


def test_units_are_as_systemd_wants_them_and_shut_in(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in UNITS.glob("syncledger*"):
        text = unit.read_text().replace("/opt/syncledger/bin/syncledger", shutil.which("true") or "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for unit in tmp_path.glob("*.service"):
        rate = [analyze, "security", "--offline=true", "--threshold=20", str(unit)]  # 2.0 of 10
        done = subprocess.run(rate, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout
