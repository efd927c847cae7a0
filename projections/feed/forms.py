"""How the feed's events and notices read: our own form, CloudEvents 1.0 (JSON), OCSF 1.5.0 (API Activity, 6003).

A line is made once for all who read that form, but for the position, which goes in at its end. What is personal is in
none of them, unless it was opened for the one who reads (`with_devices`), whose lines are nobody else's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from ledger.events import AckRefused, Event, HistoryLost, SessionEnded, tag_of
from ledger.personal import UserKey, has_plain, hidden, opened
from ledger.positions import iso_from_us
from projections.feed.told import Notice, Seen
from projections.history.words import data_of

FormName = Literal["own", "cloudevents", "ocsf"]
FORM_NAMES: Final[tuple[str, ...]] = get_args(FormName)
PRODUCT: Final = "syncledger"
TYPE_PREFIX: Final = "syncledger."
"""What the types of CloudEvents begin with; a notice's go on with `notice.`."""
OCSF_VERSION: Final = "1.5.0"
_CLASS_UID: Final = 6003
_CATEGORY_UID: Final = 6
_OTHER: Final = 99
_ACTIVITIES: Final = {"session_created": 1, "stream_offered": 2, "session_ended": 4, "history_lost": _OTHER}
"""OCSF's Create, Read, Delete and Other; all else is an Update (3)."""
_UPDATE: Final = 3
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = 1, 2, 3, 4
_OF_NOTICES: Final = {"unreadable": _HIGH, "damaged": _HIGH, "went_back": _HIGH, "removed": _MEDIUM}
_SUCCESS, _FAILURE = 1, 2
_encode: Final = msgspec.json.Encoder().encode


class _Words(NamedTuple):
    """What is said of one event in every form."""

    event: Event
    data: dict[str, Any]
    raw: str | None
    """The exact stored bytes, in Base64; None where they hold a personal text that is plain and not to be shown."""


class Form(ABC):
    """Makes lines of JSON, without line ends, for one ledger."""

    name: FormName
    _closing = b"}"

    def __init__(self, ledger_id: str, version: str) -> None:
        """`version` is that of this service."""
        self._ledger_id = ledger_id
        self._version = version

    def event(self, seen: Seen, position: str | None = None) -> bytes:
        """Print an event without what is personal; `position`: where the feed stands behind it."""
        line = seen.lines.get(self.name)
        if line is None:
            line = seen.lines[self.name] = self._begun(self._of_event(seen, _without_texts(seen)))
        return self._ended(line, position)

    def event_opened(self, seen: Seen, key: UserKey | None, position: str | None = None) -> bytes:
        """Print an event with what is personal in it, as far as `key` opens it."""
        recorded = seen.entry.recorded
        event = opened(recorded.event, key)
        words = _Words(event, data_of(event, recorded.at_us), b64encode(recorded.raw).decode())
        return self._ended(self._begun(self._of_event(seen, words)), position)

    def notice(self, notice: Notice, position: str | None = None) -> bytes:
        """Print a notice."""
        return self._ended(self._begun(self._of_notice(notice)), position)

    @abstractmethod
    def _of_event(self, seen: Seen, words: _Words) -> dict[str, Any]:
        """Lay an event out; the last member, or the last one in it, is where a position can follow."""

    @abstractmethod
    def _of_notice(self, notice: Notice) -> dict[str, Any]:
        """Lay a notice out in the same way."""

    def _begun(self, content: dict[str, Any]) -> bytes:
        return _encode(content)[: -len(self._closing)]

    def _ended(self, begun: bytes, position: str | None) -> bytes:
        if position is None:
            return begun + self._closing
        return b'%b,"position":"%b"%b' % (begun, position.encode(), self._closing)


class OwnForm(Form):
    """What histories say of an event, and whose it is."""

    name = "own"

    def _of_event(self, seen: Seen, words: _Words) -> dict[str, Any]:
        recorded = seen.entry.recorded
        return {
            "id": seen.id,
            "session": recorded.sid,
            "seq": recorded.seq,
            "at": iso_from_us(recorded.at_us),
            "atUs": recorded.at_us,
            "event": tag_of(words.event),
            "user": seen.user,
            "data": words.data,
            "schema": recorded.schema,
            "raw": words.raw,
            "hash": recorded.hash.hex(),
            "streamId": seen.entry.id,
            "partition": seen.partition,
        }

    def _of_notice(self, notice: Notice) -> dict[str, Any]:
        return {
            "id": notice.id,
            "notice": notice.kind,
            "at": iso_from_us(notice.at_us),
            "atUs": notice.at_us,
            "what": notice.what,
            "streamId": notice.stream_id,
            "partition": notice.partition,
        }


class CloudEventsForm(Form):
    """CloudEvents 1.0 in its JSON format; `data` is what `own` says beside the attributes.

    Extensions: `sequence` (of the session), `partitionkey` (the session: order is kept within one), `position`.
    """

    name = "cloudevents"

    def _of_event(self, seen: Seen, words: _Words) -> dict[str, Any]:
        recorded = seen.entry.recorded
        return {
            **self._attributes(seen.id, tag_of(words.event), recorded.sid, recorded.at_us),
            "sequence": str(recorded.seq),
            "partitionkey": recorded.sid,
            "data": {
                "session": recorded.sid,
                "seq": recorded.seq,
                "atUs": recorded.at_us,
                "user": seen.user,
                "data": words.data,
                "schema": recorded.schema,
                "raw": words.raw,
                "hash": recorded.hash.hex(),
                "streamId": seen.entry.id,
                "partition": seen.partition,
            },
        }

    def _of_notice(self, notice: Notice) -> dict[str, Any]:
        return {
            **self._attributes(notice.id, f"notice.{notice.kind}", f"partition/{notice.partition}", notice.at_us),
            "data": {"what": notice.what, "streamId": notice.stream_id, "partition": notice.partition},
        }

    def _attributes(self, event_id: str, kind: str, subject: str, at_us: int) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": event_id,
            "source": f"urn:syncledger:{self._ledger_id}",
            "type": f"{TYPE_PREFIX}{kind}",
            "subject": subject,
            "time": iso_from_us(at_us),
            "datacontenttype": "application/json",
        }


class OcsfForm(Form):
    """OCSF 1.5.0, class API Activity (6003). The ledger keeps no address: `src_endpoint` is the session's id."""

    name = "ocsf"
    _closing = b"}}"

    def _of_event(self, seen: Seen, words: _Words) -> dict[str, Any]:
        recorded = seen.entry.recorded
        tag = tag_of(words.event)
        actor: dict[str, Any] = {"session": {"uid": recorded.sid}}
        if seen.user is not None:
            actor["user"] = {"uid": seen.user}
        content = {
            **self._head(_ACTIVITIES.get(tag, _UPDATE), _severity(words.event), recorded.at_us),
            "status_id": _FAILURE if isinstance(words.event, AckRefused) else _SUCCESS,
            "metadata": {
                **self._metadata(seen.id, tag, recorded.at_us),
                "sequence": recorded.seq,
                "log_name": f"partition {seen.partition}",
            },
            "actor": actor,
            "src_endpoint": {"uid": recorded.sid},
            "api": {"operation": tag, "service": {"name": PRODUCT}},
        }
        if words.raw is not None:
            content["raw_data"] = words.raw
        return {
            **content,
            "unmapped": {
                "data": words.data,
                "atUs": recorded.at_us,
                "schema": recorded.schema,
                "hash": recorded.hash.hex(),
                "streamId": seen.entry.id,
                "partition": seen.partition,
            },
        }

    def _of_notice(self, notice: Notice) -> dict[str, Any]:
        return {
            **self._head(_OTHER, _OF_NOTICES.get(notice.kind, _INFORMATIONAL), notice.at_us),
            "message": notice.what,
            "metadata": self._metadata(notice.id, f"notice.{notice.kind}", notice.at_us),
            "actor": {"app_name": PRODUCT},
            "src_endpoint": {"svc_name": PRODUCT},
            "api": {"operation": f"notice.{notice.kind}", "service": {"name": PRODUCT}},
            "unmapped": {"streamId": notice.stream_id, "partition": notice.partition},
        }

    def _head(self, activity: int, severity: int, at_us: int) -> dict[str, Any]:
        return {
            "category_uid": _CATEGORY_UID,
            "class_uid": _CLASS_UID,
            "activity_id": activity,
            "type_uid": _CLASS_UID * 100 + activity,
            "severity_id": severity,
            "time": at_us // 1000,
        }

    def _metadata(self, event_id: str, code: str, at_us: int) -> dict[str, Any]:
        return {
            "version": OCSF_VERSION,
            "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": self._version, "uid": self._ledger_id},
            "uid": event_id,
            "event_code": code,
            "original_time": iso_from_us(at_us),
        }


FORMS: Final[dict[str, type[Form]]] = {form.name: form for form in (OwnForm, CloudEventsForm, OcsfForm)}


def _without_texts(seen: Seen) -> _Words:
    recorded = seen.entry.recorded
    event = recorded.event
    raw = None if has_plain(event) else b64encode(recorded.raw).decode()
    return _Words(event, data_of(hidden(event), recorded.at_us), raw)


def _severity(event: Event) -> int:
    if isinstance(event, HistoryLost):
        return _HIGH
    if isinstance(event, SessionEnded) and event.reason == "token_reused":
        return _MEDIUM
    return _LOW if isinstance(event, AckRefused) else _INFORMATIONAL
