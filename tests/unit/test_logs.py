"""Log lines: one each, readable by machines, without secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast, get_args

import pytest

from ops.server.logs import (
    MAX_CHARS,
    MAX_TRACEBACK_CHARS,
    OURS,
    SERVERS,
    JsonFormatter,
    LineFormatter,
    configure_logging,
    masked,
)
from ops.settings.variables import LogLevel

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@contextmanager
def written(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """Give what a logger of its own writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("test.lines")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield stream
    finally:
        logger.removeHandler(handler)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is written as pairs."""
    with written(LineFormatter()) as stream:
        yield stream


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


OBEYED = 'a\nb\r\n\x00\x1b[2J\x7f\x85\x9b31m\u2028\u2029\u202e\u2066\ud800 "=\\ é😀'
"""What begins a line, or a terminal obeys, and what is read as it stands."""


@pytest.fixture(params=[LineFormatter, JsonFormatter])
def either(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What is written in one form, and in the other."""
    with written(request.param()) as stream:
        yield stream


@pytest.fixture
def as_json() -> Iterator[io.StringIO]:
    """What is written as JSON."""
    with written(JsonFormatter()) as stream:
        yield stream


def test_a_record_is_one_object_with_numbers_as_such(as_json: io.StringIO) -> None:
    extra = {"rows": 3, "seconds": 0.25, "is_there": True, "odd": float("nan"), "what": Path("/x"), "none": None}
    logging.getLogger("test.lines").warning("the %s", "message", extra=extra)
    told = json.loads(as_json.getvalue())
    assert list(told)[:5] == ["ts", "level", "pid", "logger", "message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["ts"])
    assert (told["level"], told["logger"], told["message"]) == ("warning", "test.lines", "the message")
    rest = {name: told[name] for name in extra}
    assert rest == {**extra, "odd": "nan", "what": "/x", "none": "None"}


@pytest.mark.parametrize("form", [LineFormatter, JsonFormatter])
def test_what_somebody_else_chose_begins_no_line_and_is_not_obeyed(form: type[LineFormatter]) -> None:
    try:
        raise ValueError(OBEYED)
    except ValueError:
        error = sys.exc_info()
    record = logging.makeLogRecord({"msg": "m %s", "args": (OBEYED,), "field": OBEYED, "exc_info": error})
    line = form().format(record)
    assert line.isprintable()
    if line.startswith("{"):
        told = json.loads(line)
        assert (told["field"], told["message"]) == (OBEYED, f"m {OBEYED}")
    else:
        pair = re.compile(r'(?:^| )\w+=(?:"(?:[^"\\]|\\.)*"|[^ "]+)')
        assert len(pair.findall(line)) == 7, "each value is one, whatever is in it"


def test_no_value_makes_a_line_long_and_a_traceback_keeps_its_end(either: io.StringIO) -> None:
    logger = logging.getLogger("test.lines")
    try:
        raise ValueError("x " * 500_000 + "the end")
    except ValueError:
        logger.exception("m %s", "y" * 100_000, extra={"field": "z" * 50_000})
    line = either.getvalue().replace("\\u2026", "…")
    assert len(line) < 2 * MAX_CHARS + MAX_TRACEBACK_CHARS + 1000
    assert "the end" in line
    assert f"…{50_000 - MAX_CHARS} characters…" in line
    assert "…100001 characters…" in line


def test_no_half_of_a_secret_stays_where_a_text_is_cut() -> None:
    secret = "redis://user:hunter2hunter2@db"
    for size in (32_768, MAX_CHARS // 2):
        for place in range(0, len(secret) + 4, 2):
            text = "a " * ((size - place) // 2) + secret + " b" * 20_000
            assert "hunter" not in LineFormatter().format(logging.makeLogRecord({"msg": text}))


@pytest.mark.parametrize("form", [LineFormatter, JsonFormatter])
def test_values_that_do_not_fit_a_line_are_left_out_of_it(form: type[LineFormatter]) -> None:
    line = form().format(logging.makeLogRecord({"msg": "%d of %d", "args": (TOKEN,)}))
    assert "%d of %d [cannot be filled in: TypeError]" in line
    assert "eyJ" not in line


CRASH = """
import sys, threading, warnings
from ops.server.logs import configure_logging, log_crashes
configure_logging("info", sys.argv[1])
log_crashes()
def fail():
    raise ValueError("in a\\nthread")
thread = threading.Thread(target=fail, name="one")
thread.start()
thread.join()
class Late:
    def __del__(self):
        raise ValueError("in the end")
Late()
warnings.warn("be warned")
raise SystemError("of the process")
"""


def test_what_python_prints_by_itself_is_in_lines_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, "json"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in told] == ["syncledger", "syncledger", "py.warnings", "syncledger"]
    assert "ValueError: in a\nthread" in told[0]["error"]
    assert told[0]["message"] == "the thread one crashed"
    assert "ValueError: in the end" in told[1]["error"]
    assert "be warned" in told[2]["message"]
    assert (told[3]["level"], told[3]["error"].splitlines()[-1]) == ("critical", "SystemError: of the process")
