"""Log lines: one each, readable by machines, without secrets."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from ops.logs import LineFormatter, configure_logging, masked

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
    ],
)
def test_secrets_are_masked(text: str) -> None:
    assert "hunter2" not in masked(text)
    assert "eyJ" not in masked(text)


@pytest.mark.parametrize(
    "text", ["http://[::1]:2283/x?y=1", "key=value pairs", "AssetV1|2026-11-21T09:28:58.123456Z|a"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert masked(text).startswith(text.split("=")[0])
    assert "AssetV1" not in text or masked(text) == text


def test_chatty_libraries_are_heard_only_in_trouble_or_on_debug() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging("info")
        assert not logging.getLogger("uvicorn.error").isEnabledFor(logging.INFO)
        assert logging.getLogger("syncledger.serve").isEnabledFor(logging.INFO)
        configure_logging("debug")
        assert logging.getLogger("uvicorn.error").isEnabledFor(logging.INFO)
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)
