"""How the feed's events and notices read: each type in each form, by the published schemas of others."""

from __future__ import annotations

import json
from base64 import b64decode
from functools import cache
from typing import Any

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from ledger.events import DeviceDescribed, SessionCreated, SessionEnded, tag_of
from ledger.personal import UserKey, plain, sealed
from projections.feed.forms import FORMS, OCSF_VERSION, CloudEventsForm, Form, OcsfForm, OwnForm
from projections.feed.told import Notice, Seen
from projections.history.words import TAGS
from tests.support.ledger.feeds import notices, seen
from tests.unit.test_events import SCHEMA_SAMPLES

LEDGER = "c0ffee"
OWN = OwnForm(LEDGER, "1.2.3")
POSITION = "AbC-_9"
SEEN = [seen(event, bytes.fromhex(hexed), schema) for schema, hexed, event in SCHEMA_SAMPLES]
TEXTS = ("Ann's iPhone", "iOS", "3.2.0-personal")
DEVICE = SessionCreated("ann", "photos", None, plain(TEXTS[0]), plain(TEXTS[1]), plain(TEXTS[2]))


@cache
def ocsf() -> Draft202012Validator:
    """The class API Activity as it was published."""
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(OCSF_VERSION)).get_class_schema("api_activity")
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check_cloudevent(line: bytes) -> dict[str, Any]:
    """Read a line as the CloudEvents SDK does, which checks attributes and extensions by the specification."""
    read = JSONFormat().read(None, line)
    assert read.get_specversion() == "1.0"
    found: dict[str, Any] = json.loads(line)
    assert read.get_id() == found["id"]
    assert read.get_extension("position") == found.get("position")
    return found


def check_own(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    assert next(iter(found)) == "id"
    return found


def check_ocsf(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    assert [error.message for error in ocsf().iter_errors(found)] == []
    return found


CHECKS = {"own": check_own, "cloudevents": check_cloudevent, "ocsf": check_ocsf}


def test_the_samples_are_of_every_type() -> None:
    assert {tag_of(one.entry.recorded.event) for one in SEEN} == set(TAGS)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("position", [None, POSITION])
def test_every_event_and_notice_fits_the_published_schema(name: str, position: str | None) -> None:
    form = FORMS[name](LEDGER, "1.2.3")
    for one in [*SEEN, seen(DEVICE, user=None)]:
        CHECKS[name](form.event(one, position))
        CHECKS[name](form.event_opened(one, None, position))
    for notice in notices():
        CHECKS[name](form.notice(notice, position))


def test_the_schema_refuses_what_does_not_fit() -> None:
    found = check_ocsf(OcsfForm(LEDGER, "1").event(SEEN[0]))
    assert list(ocsf().iter_errors(found | {"activity_id": 42}))
    assert list(ocsf().iter_errors(found | {"position": POSITION}))
    del found["src_endpoint"]
    assert list(ocsf().iter_errors(found))
    with pytest.raises(Exception, match=r"specversion|id"):
        check_cloudevent(b'{"source":"x","type":"y"}')


@pytest.mark.parametrize("name", FORMS)
def test_a_line_is_one_line_and_the_position_is_all_that_differs(name: str) -> None:
    form = FORMS[name](LEDGER, "1.2.3")
    for one in SEEN:
        without, with_it = json.loads(form.event(one)), json.loads(form.event(one, POSITION))
        assert b"\n" not in form.event(one)
        where = with_it["unmapped"] if name == "ocsf" else with_it
        assert where.pop("position") == POSITION
        assert with_it == without


def told_by(form: Form, one: Seen | Notice) -> str:
    """The id that a form gives."""
    line = json.loads(form.notice(one) if isinstance(one, Notice) else form.event(one))
    return str(line["metadata"]["uid"] if form.name == "ocsf" else line["id"])


def test_ids_are_the_same_in_every_form_and_differ_by_event() -> None:
    forms = [form(LEDGER, "1") for form in FORMS.values()]
    everything: list[Seen | Notice] = [*SEEN[:3], *notices()]
    for one in everything:
        assert {told_by(form, one) for form in forms} == {one.id}
    recorded = SEEN[0].entry.recorded
    other = msgspec.structs.replace(recorded, hash=bytes(32))  # of the same seq, behind a loss
    entry = msgspec.structs.replace(SEEN[0].entry, recorded=other)
    assert msgspec.structs.replace(SEEN[0], entry=entry).id != SEEN[0].id
    assert len({notice.id for notice in notices()}) == len(notices())


@pytest.mark.parametrize("name", FORMS)
def test_what_is_personal_is_told_only_where_it_is_opened(name: str) -> None:
    form, key = FORMS[name](LEDGER, "1.2.3"), UserKey(bytes(32))
    events = (DEVICE, DeviceDescribed(*(plain(text) for text in TEXTS)), SessionEnded("revoked", plain(TEXTS[0])))
    for event in events:
        for stored in (event, sealed(event, key)):
            one = seen(stored)
            closed = form.event(one)
            for text in TEXTS:
                assert text.encode() not in closed
                assert text.encode() not in raw_of(closed)
            assert TEXTS[0].encode() in form.event_opened(one, key)
        # the key is gone: nothing opens what it sealed
        assert TEXTS[0].encode() not in form.event_opened(seen(sealed(event, key)), None)
        assert TEXTS[0].encode() not in form.event_opened(seen(sealed(event, key)), UserKey(b"\1" * 32))


def raw_of(line: bytes) -> bytes:
    """The stored bytes that a line has in any form; empty without any."""
    found = json.loads(line)
    raw = found.get("raw") or found.get("raw_data") or found.get("data", {}).get("raw")
    return b64decode(raw or "")


def test_raw_bytes_are_told_unless_they_hold_a_plain_text() -> None:
    plainly, closed = seen(DEVICE), seen(sealed(DEVICE, UserKey(bytes(32))))
    for form in (form(LEDGER, "1") for form in FORMS.values()):
        assert raw_of(form.event(plainly)) == b""
        assert raw_of(form.event_opened(plainly, None)) == plainly.entry.recorded.raw
        assert raw_of(form.event(closed)) == closed.entry.recorded.raw


def test_the_same_line_is_made_once() -> None:
    one = seen(DEVICE)
    assert OWN.event(one, "A") != OWN.event(one, "B")
    assert list(one.lines) == ["own"]
    CloudEventsForm(LEDGER, "1").event(one)
    OWN.event_opened(one, None)
    assert list(one.lines) == ["own", "cloudevents"]
