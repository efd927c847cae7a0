"""A real Prometheus that scrapes one service every second, asked what the expression of an alert says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import pytest
import yaml

from tests.support.processes.services import ROOT
from tests.support.stores.servers import die_with_parent, free_port, wait_until

PROMETHEUS: Final = ROOT / "ops" / "deploy" / "prometheus"


def prometheus_binary() -> str:
    """Find Prometheus, or skip the test."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed")
    return binary


class Prometheus:
    """Scrapes a service on a port with an API key, with the rules of ops/deploy."""

    def __init__(self, folder: Path, port: int, key: str) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        scrape = {
            "job_name": "syncledger",
            "authorization": {"credentials": key},
            "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
        }
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        alerts = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
        self._expressions = {rule["alert"]: rule["expr"] for group in alerts["groups"] for rule in group["rules"]}

    def firing(self, alert: str) -> bool:
        """Tell whether an alert's expression is true now."""
        return self.says(self._expressions[alert])

    def says(self, expression: str) -> bool:
        """Tell whether an expression gives anything."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query"
        answer: Any = httpx.get(url, params={"query": expression}, trust_env=False).json()
        assert answer["status"] == "success", answer
        return bool(answer["data"]["result"])

    def wait_for(self, alert: str, *, firing: bool, timeout_s: float = 180.0) -> None:
        """Wait until an alert's expression is true, or until it is not any more."""
        wait_until(lambda: self.firing(alert) == firing, f"{alert}: {firing}", timeout_s)

    def __enter__(self) -> Self:
        options = {
            "config.file": self._folder / "prometheus.yml",
            "storage.tsdb.path": self._folder / "data",
            "web.listen-address": f"127.0.0.1:{self._port}",
            "log.level": "error",
        }
        self._process = subprocess.Popen(
            [prometheus_binary(), *(f"--{name}={value}" for name, value in options.items())],
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        wait_until(self._is_ready, "Prometheus")
        return self

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/-/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
