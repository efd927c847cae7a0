"""What is hidden from a package while it is loaded is there for everybody else, and for everybody later."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from ledger.imports import without

_SERVICE = """
import sys
import ops.app, ops.opening.sockets
from ledger.imports import without
with without("requests", "valkey"):
    import endpoints.live.sockets
hidden = "requests", "valkey", "opentelemetry.sdk"
print(*(name in sys.modules for name in hidden))
import requests, valkey, opentelemetry.sdk.metrics
import ops.tracing.sending
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
print(requests.Session().trust_env, valkey.Valkey.__name__, opentelemetry.sdk.metrics.MeterProvider.__name__)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that notes whether it finds another one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sought_here.py").write_text("")
    (tmp_path / "seeking_here.py").write_text(
        "try:\n    import sought_here\n    found = True\nexcept ImportError:\n    found = False\n"
    )
    for name in ("sought_here", "seeking_here"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "seeking_here"


def test_a_package_does_not_find_what_is_hidden_and_others_do_afterwards(package: str) -> None:
    with without("sought_here"):
        seeking = importlib.import_module(package)
    assert not seeking.found
    assert importlib.import_module("sought_here").__name__ == "sought_here"


def test_another_thread_finds_it_meanwhile(package: str) -> None:
    found: list[bool] = []
    with without("sought_here"):
        other = Thread(target=lambda: found.append(importlib.import_module(package).found))
        other.start()
        other.join()
    assert found == [True]


def test_what_is_loaded_already_stays(package: str) -> None:
    importlib.import_module("sought_here")
    with without("sought_here"):
        assert importlib.import_module(package).found


def test_what_fails_while_something_is_hidden_leaves_nothing_hidden(package: str) -> None:
    with pytest.raises(ZeroDivisionError), without("sought_here"):
        raise ZeroDivisionError
    assert importlib.import_module(package).found


def test_a_service_loads_nothing_that_is_hidden_and_traces_and_clients_work_later() -> None:
    done = subprocess.run([sys.executable, "-c", _SERVICE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False False False", "True Valkey MeterProvider"]
