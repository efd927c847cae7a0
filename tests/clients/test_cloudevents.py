"""Every event and notice in CloudEvents form, by the specification's JSON schema, which the official SDK carries."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from projections.feed.forms import CloudEventsForm
from tests.support.ledger.feeds import notices, seen
from tests.unit.test_events import SCHEMA_SAMPLES

HERE = Path(__file__).parent
FORM = CloudEventsForm("c0ffee", "1.2.3")


def wrong_with(lines: list[bytes]) -> list[list[object]]:
    """What the SDK finds wrong with each line; skips where Node or the installed package is missing."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (HERE / "node_modules" / "cloudevents").is_dir():
        pytest.skip("the SDK of CloudEvents is not installed: npm is missing, or `make install` was not run")
    done = subprocess.run(
        [node, str(HERE / "cloudevents.mjs")], input=b"\n".join(lines) + b"\n", capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_event_and_notice_fits_the_specification() -> None:
    told = [seen(event, bytes.fromhex(hexed), schema) for schema, hexed, event in SCHEMA_SAMPLES]
    lines = [FORM.event(one, position) for one in told for position in (None, "AbC-_9")]
    lines += [FORM.notice(notice, "AbC-_9") for notice in notices()]
    assert wrong_with(lines) == [[]] * len(lines)


def test_the_schema_refuses_what_does_not_fit() -> None:
    good = json.loads(FORM.notice(notices()[0]))
    changes: list[dict[str, object]] = [{"id": ""}, {"time": "yesterday"}, {"source": None}, {"Position": "x"}]
    found = wrong_with([json.dumps(good | change).encode() for change in changes])
    assert [change for change, wrong in zip(changes, found, strict=True) if not wrong] == []
