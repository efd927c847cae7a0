"""Personal texts: sealed so that only their user's key opens them, and the same again for the same text."""

from __future__ import annotations

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from ledger.commands import CreateSession, DescribeDevice, EndSession, RequestReset
from ledger.decide import decide
from ledger.events import DeviceDescribed, SessionCreated, encode_event
from ledger.personal import UserKey, has_plain, has_sealed, opened, plain, sealed, text_of
from tests.support.ledger.given import NOW, given

KEY, OTHER = UserKey(b"k" * 32), UserKey(b"o" * 32)


@forall(st.text())
def test_a_sealed_text_opens_with_its_key_only(text: str) -> None:
    told = KEY.seal(plain(text))
    assert text_of(KEY.open(told)) == text
    assert KEY.seal(told) == told
    assert OTHER.open(told) == told
    if text:
        assert text_of(told) is None
        assert KEY.open(KEY.open(told)) == plain(text)
        assert len(text.encode()) < 4 or text.encode() not in told


@forall(st.text(), st.text())
def test_texts_are_sealed_the_same_only_if_they_are(one: str, other: str) -> None:
    assert (KEY.seal(plain(one)) == KEY.seal(plain(other))) == (one == other)
    assert not one or KEY.seal(plain(one)) != OTHER.seal(plain(one))


@forall(st.binary(max_size=60))
def test_what_nobody_sealed_opens_to_nothing_new(garbage: bytes) -> None:
    assert KEY.open(b"\1" + garbage) == b"\1" + garbage


def test_nothing_stays_nothing() -> None:
    assert (plain(""), plain(None), KEY.seal(b""), KEY.open(b""), text_of(b"")) == (b"", b"", b"", b"", "")


@pytest.mark.parametrize("secret", [b"", b"k" * 31, b"k" * 33])
def test_a_key_of_another_length_is_none(secret: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        UserKey(secret)


@pytest.mark.parametrize(
    "command",
    [
        CreateSession("ann", "lib", device_type=plain("iPhone"), device_os=plain("iOS"), app_version=plain("3.2.0")),
        DescribeDevice(plain("iPhone"), plain("iOS"), plain("3.2.0")),
        EndSession("logout", plain("iPhone")),
        RequestReset(True, plain("iPhone")),
    ],
)
def test_no_text_of_a_sealed_command_is_in_its_events(command: CreateSession | DescribeDevice) -> None:
    closed = sealed(command, KEY)
    assert (has_plain(command), has_plain(closed), has_sealed(closed)) == (True, False, True)
    assert opened(closed, KEY) == command
    assert opened(closed, OTHER) == opened(closed, None) == closed
    events = decide(None if isinstance(command, CreateSession) else given(), closed, NOW)
    for event in events:
        assert not [text for text in (b"iPhone", b"iOS", b"3.2.0") if text in encode_event(event)]


def test_a_device_that_says_the_same_again_is_not_described_anew() -> None:
    device = plain("iPhone"), plain("iOS")
    session = given(sealed(SessionCreated("ann", "lib", None, *device, plain("3.2.0")), KEY))
    assert decide(session, sealed(DescribeDevice(*device, plain("3.2.0")), KEY), NOW) == ()
    (event,) = decide(session, sealed(DescribeDevice(*device, plain("3.3.0")), KEY), NOW)
    assert opened(event, KEY) == DeviceDescribed(app_version=plain("3.3.0"))


def test_a_device_described_before_texts_were_sealed_is_described_sealed() -> None:
    session = given(SessionCreated("ann", "lib", device_type=plain("iPhone")))
    (event,) = decide(session, sealed(DescribeDevice(plain("iPhone")), KEY), NOW)
    assert isinstance(event, DeviceDescribed)
    assert has_sealed(event)
