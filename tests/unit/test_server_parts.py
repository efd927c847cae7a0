"""What of uvicorn, its worker and httptools is overridden or used here beyond their public interfaces.

None of it is promised by them. A release that has it otherwise fails here, by the name of the part.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httptools
import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import Server, ServerState
from uvicorn_worker import UvicornWorker

import ops.server.http_protocol
from ops.server.http_exchange import STATUS_LINES
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.worker import LedgerServer, LedgerWorker
from ops.server.worker_state import WorkerState

OVERRIDDEN: dict[Any, dict[str, tuple[str, ...] | None]] = {
    Server: {
        "__init__": ("config",),
        "startup": ("sockets",),
        "shutdown": ("sockets",),
        "on_tick": ("counter",),
        "capture_signals": (),
    },
    ServerState: {"__init__": ()},
    UvicornWorker: {"__init__": ("args", "kwargs"), "_serve": ()},
}
"""Each part of another's that a class of ours replaces, with the names of its parameters."""
OURS = {LedgerServer: Server, WorkerState: ServerState, LedgerWorker: UvicornWorker}
"""Each class of ours, and the one of theirs that it begins with."""
CALLED: dict[Any, dict[str, tuple[str, ...] | None]] = {
    Server: {"serve": ("sockets",)},
    httptools.HttpRequestParser: {
        "feed_data": ("data",), "get_method": (), "get_http_version": (), "should_keep_alive": (), "should_upgrade": (),
        "set_dangerous_leniencies": None,
    },
    FlowControl: {"pause_reading": (), "resume_reading": (), "pause_writing": (), "resume_writing": (), "drain": ()},
}  # fmt: skip
"""Methods of theirs that ours call without replacing them; None where a compiled one does not tell what it takes."""
SET = {
    FlowControl: {"write_paused"},
    Server: {"_captured_signals", "force_exit", "lifespan", "server_state", "should_exit", "started"},
    ServerState: {"connections", "default_headers", "tasks", "total_requests"},
    Config: {"loaded", "loaded_app", "timeout_graceful_shutdown", "timeout_keep_alive", "ws_protocol_class"},
}
"""Attributes of theirs that ours read or set."""


def parameters(method: Any) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(method).parameters if name != "self")


@pytest.mark.parametrize(
    ("theirs", "name", "expected"),
    [
        pytest.param(theirs, name, expected, id=f"{theirs.__name__}.{name}")
        for table in (OVERRIDDEN, CALLED)
        for theirs, parts in table.items()
        for name, expected in parts.items()
    ],
)
def test_a_part_is_there_and_takes_what_it_took(theirs: type, name: str, expected: tuple[str, ...] | None) -> None:
    where = f"{theirs.__module__}.{theirs.__name__}.{name}"
    found = getattr(theirs, name, None)
    assert found is not None, f"{where} is gone; ops/server/ needs it"
    if expected is not None:
        assert parameters(found) == expected, f"{where} takes other parameters; ops/server/ overrides or calls it"


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        pytest.param(theirs, name, id=f"{theirs.__name__}.{name}")
        for theirs, names in SET.items()
        for name in sorted(names)
    ],
)
def test_an_attribute_is_still_set(theirs: type, name: str) -> None:
    source = inspect.getsource(theirs)
    assert re.search(rf"self\.{name}\b", source), f"{theirs.__name__} has no {name}; ops/server/ uses it"


def test_the_tables_name_all_that_is_overridden() -> None:
    for mine, theirs in OURS.items():
        replaced = {name for name, part in vars(mine).items() if callable(part) and hasattr(theirs, name)}
        assert replaced == set(OVERRIDDEN[theirs]), f"what {mine.__name__} overrides"


def test_a_server_makes_ends_and_counts_connections_as_uvicorns_are() -> None:
    assert parameters(LedgerHttpProtocol.__init__) == parameters(HttpToolsProtocol.__init__)
    assert parameters(LedgerHttpProtocol.shutdown) == parameters(HttpToolsProtocol.shutdown)
    source = inspect.getsource(Server)
    assert re.findall(r"\bconnection\.(\w+)", source) == ["shutdown"]
    assert set(re.findall(r"server_state\.(\w+)", source)) == {
        "connections",
        "default_headers",
        "tasks",
        "total_requests",
    }


def test_the_installed_versions_are_in_the_range_that_was_tried() -> None:
    project = tomllib.loads((Path(ops.server.http_protocol.__file__).parents[2] / "pyproject.toml").read_text())[
        "project"
    ]
    for name in ("uvicorn", "uvicorn-worker", "httptools"):
        [wanted] = [text for text in project["dependencies"] if re.match(rf"{name}\b(?!-)", text)]
        low, high = re.fullmatch(rf"{name}>=([\d.]+),<([\d.]+)", wanted).groups()  # type: ignore[union-attr]

        def order(text: str) -> list[int]:
            return [int(part) for part in text.split(".")]

        assert order(low) <= order(version(name)) < order(high), f"{name} {version(name)} was not tried: {wanted}"


def test_a_status_line_is_whole() -> None:
    assert STATUS_LINES[431] == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    assert {status: STATUS_LINE[status] for status in STATUS_LINES} == STATUS_LINES
