"""Log lines: one each, readable by machines, without secrets."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from typing import cast, get_args

import pytest

from ops.server.logs import OURS, SERVERS, LineFormatter, configure_logging, masked
from ops.settings.variables import LogLevel

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a logger of its own writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("test.lines")
    logger.addHandler(handler)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)


def test_a_record_is_one_line_of_pairs(lines: io.StringIO) -> None:
    logging.getLogger("test.lines").warning('two\nlines of "%s"', "text", extra={"address": "http://[::1]:1", "n": 2})
    line = lines.getvalue()
    assert line.count("\n") == 1
    assert line.startswith("ts=20")
    assert " level=warning pid=" in line
    assert r' msg="two\nlines of \"text\"" address=http://[::1]:1 n=2' in line


def test_a_traceback_stays_in_its_line(lines: io.StringIO) -> None:
    try:
        raise ValueError(f"about {TOKEN}")
    except ValueError:
        logging.getLogger("test.lines").exception("failed")
    assert lines.getvalue().count("\n") == 1
    assert "ValueError: about [token]" in lines.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        f"token {TOKEN} refused",
        "redis://user:hunter2@db:1/0",
        "redis://:hunter2@db",
        "GET /x?apiKey=hunter2&y=1",
        "GET /x?sessionKey=hunter2",
        "Authorization: Bearer hunter2",
        "password=hunter2",
        "GET /cb?code=hunter2&state=hunter2&iss=x",
        "code_verifier=hunter2",
        "POST logout_token=hunter2",
        "?id_token_hint=hunter2&x=1",
        "client_secret=hunter2;",
        "nonce=hunter2",
        "Cookie: immich_access_token=hunter2; immich_is_authenticated=true",
        '{"codeVerifier": "hunter2", "state":"hunter2"}',
        "{'access_token': 'hunter2', 'code': b'hunter2'}",
        "Authorization: Basic aHVudGVyMg==hunter2",
        "key slk_hunter2-x_y is not known",
        "e-mail hunter2@example.test is taken",
        "<hunter2+tag@mail.example.co.uk>",
        "user hunter2@localhost",
        "a JWE eyJhbGciOiJkaXIifQ..hunter2.hunter2.hunter2",
        "half a token eyJhbGciOiJkaXIifQhunter2",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    assert "hunter2" not in masked(text)
    assert "eyJ" not in masked(text)
    assert "aHVudGVyMg" not in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://[::1]:2283/x?y=1",
        "AssetV1|2026-11-21T09:28:58.123456Z|a",
        "state: open, code: 3",
        "a basic mistake of the bear",
        "unix:///var/valkey.sock",
        "404 GET /ledger/libraries/lib/entities [a-b+c/d=1]",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "piece",
    ["a", "a@", "a.", "x@a.", '"a', "://:", "eyJ", "key", "code=", "basic ", "bearer ", "_", "'state':'"],
)
def test_masking_a_long_text_takes_no_long_time(piece: str) -> None:
    text = piece * (65536 // len(piece))
    began = time.perf_counter()
    masked(text)
    assert time.perf_counter() - began < 3, "it was 0.3 s at worst; a pattern of quadratic time takes minutes"


LIBRARIES = ("httpx", "httpcore.http11", "authlib.oauth2", "gumnut", "redis.client", "limits", "anything.else")


@pytest.fixture
def levels() -> Iterator[None]:
    """Put the levels and handlers of all loggers back afterwards."""
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in (*OURS, *SERVERS, *LIBRARIES))]
    before = [(logger, logger.level) for logger in loggers]
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.NOTSET)  # as a new process finds them
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers
    for logger, level in before:
        logger.setLevel(level)
    logging.captureWarnings(False)


def heard(name: str) -> str:
    """Tell the lowest level at which a logger speaks."""
    return logging.getLevelName(logging.getLogger(name).getEffectiveLevel()).lower()


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("level", get_args(LogLevel))
def test_our_own_lines_are_heard_from_the_level_asked_for(level: LogLevel) -> None:
    configure_logging(level)
    for name in (
        "syncledger.serve",
        "endpoints.http.errors",
        "ledger.store.shared_connection",
        "projections.x",
        "ops.y",
    ):
        assert heard(name) == level


@pytest.mark.usefixtures("levels")
def test_servers_are_heard_only_in_trouble_or_on_debug() -> None:
    for level, expected in (("debug", "debug"), ("info", "warning"), ("warning", "warning"), ("error", "error")):
        configure_logging(cast(LogLevel, level))
        assert {heard(name) for name in ("uvicorn.error", "gunicorn.error", "asyncio")} == {expected}


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("level", get_args(LogLevel))
def test_libraries_are_never_heard_below_warning(level: LogLevel) -> None:
    """Some of them log requests and what is in them: tokens, codes, addresses."""
    configure_logging(level)
    for name in LIBRARIES:
        assert heard(name) == ("error" if level == "error" else "warning")
