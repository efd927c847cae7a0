"""What of uvicorn, its worker and httptools is overridden or used here beyond their public interfaces.

None of it is promised by them. A release that has it otherwise fails here, by the name of the part.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httptools
import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState
from uvicorn_worker import UvicornWorker

import ops.server.worker
from ops.server.worker import LedgerHttpProtocol, LedgerServer, LedgerWorker, RequestParser, WorkerState

OVERRIDDEN: dict[Any, dict[str, tuple[str, ...]]] = {
    HttpToolsProtocol: {
        "__init__": ("config", "server_state", "app_state", "_loop"),
        "connection_made": ("transport",),
        "connection_lost": ("exc",),
        "data_received": ("data",),
        "on_message_begin": (),
        "on_headers_complete": (),
        "on_body": ("body",),
        "on_message_complete": (),
        "on_response_complete": (),
        "send_400_response": ("msg",),
        "shutdown": (),
    },
    Server: {
        "__init__": ("config",),
        "startup": ("sockets",),
        "shutdown": ("sockets",),
        "on_tick": ("counter",),
        "capture_signals": (),
    },
    ServerState: {"__init__": ()},
    UvicornWorker: {"__init__": ("args", "kwargs"), "_serve": ()},
    httptools.HttpRequestParser: {"__init__": ("protocol",), "feed_data": ("data",)},
}
"""Each part of another's that a class of ours replaces, with the names of its parameters."""
OURS = {
    LedgerHttpProtocol: HttpToolsProtocol,
    LedgerServer: Server,
    WorkerState: ServerState,
    LedgerWorker: UvicornWorker,
    RequestParser: httptools.HttpRequestParser,
}
"""Each class of ours, and the one of theirs that it begins with."""
CALLED: dict[Any, dict[str, tuple[str, ...]]] = {
    HttpToolsProtocol: {"timeout_keep_alive_handler": (), "_unset_keepalive_if_required": ()},
    Server: {"serve": ("sockets",)},
    httptools.HttpRequestParser: {"get_method": (), "get_http_version": (), "should_upgrade": ()},
}
"""Methods of theirs that ours call without replacing them."""
SET = {
    HttpToolsProtocol: {
        "cycle", "expect_100_continue", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state",
        "client", "timeout_keep_alive", "timeout_keep_alive_task", "transport", "url",
    },
    RequestResponseCycle: {"disconnected", "message_event", "response_complete", "response_started"},
    Server: {"_captured_signals", "force_exit", "lifespan", "server_state", "should_exit", "started"},
    ServerState: {"connections"},
    Config: {"timeout_graceful_shutdown"},
}  # fmt: skip
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
def test_a_part_is_there_and_takes_what_it_took(theirs: type, name: str, expected: tuple[str, ...]) -> None:
    where = f"{theirs.__module__}.{theirs.__name__}.{name}"
    found = getattr(theirs, name, None)
    assert found is not None, f"{where} is gone; ops/server/worker.py needs it"
    if name != "__init__" or theirs is not httptools.HttpRequestParser:  # compiled: its own tells nothing
        assert parameters(found) == expected, (
            f"{where} takes other parameters; ops/server/worker.py overrides or calls it"
        )


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
    assert re.search(rf"self\.{name}\b", source), f"{theirs.__name__} has no {name}; ops/server/worker.py uses it"


def test_the_tables_name_all_that_is_overridden() -> None:
    for mine, theirs in OURS.items():
        replaced = {name for name, part in vars(mine).items() if callable(part) and hasattr(theirs, name)}
        assert replaced == set(OVERRIDDEN[theirs]), f"what {mine.__name__} overrides"


def test_what_is_read_of_a_connection_is_in_the_tables() -> None:
    tree = ast.parse(inspect.getsource(ops.server.worker))
    [protocol] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LedgerHttpProtocol"]
    used = {
        node.attr
        for node in ast.walk(protocol)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    mine = set(vars(LedgerHttpProtocol)) | {name for name in used if name.startswith("_")}
    known = SET[HttpToolsProtocol] | set(CALLED[HttpToolsProtocol])
    assert used - mine - known == set(), "name these in the tables above"


def test_the_installed_versions_are_in_the_range_that_was_tried() -> None:
    project = tomllib.loads((Path(ops.server.worker.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name in ("uvicorn", "uvicorn-worker", "httptools"):
        [wanted] = [text for text in project["dependencies"] if re.match(rf"{name}\b(?!-)", text)]
        low, high = re.fullmatch(rf"{name}>=([\d.]+),<([\d.]+)", wanted).groups()  # type: ignore[union-attr]

        def order(text: str) -> list[int]:
            return [int(part) for part in text.split(".")]

        assert order(low) <= order(version(name)) < order(high), f"{name} {version(name)} was not tried: {wanted}"


def test_a_status_line_is_whole() -> None:
    assert STATUS_LINE[431] == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
