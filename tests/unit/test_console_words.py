"""What the console's pages say and draw, from figures alone."""

from __future__ import annotations

from typing import get_args

import pytest

from endpoints.console.pages import safe_next
from endpoints.console.plots import HEIGHT, WIDTH, bars, drawn, line, nothing_of
from endpoints.console.words import ago, clean, colour, device, number, prose, seconds, span, time_class, told
from projections.devices.health import TypeHealth
from projections.devices.plot import Bucket, Plot
from projections.history.words import TAGS
from projections.sent.record import How
from projections.sent.words import ENDS

HOUR = 3600 * 1_000_000


def test_what_others_wrote_holds_nothing_unseen() -> None:
    assert clean("a\u202eb\x00c\u2066d\ne") == "a�b�c�d�e"
    assert clean("<b>Ann's</b> 📱") == "<b>Ann's</b> 📱"
    assert clean("x" * 10_000) == "x" * 299 + "…"
    assert clean("x" * 300) == "x" * 300


@pytest.mark.parametrize(
    ("us", "said"),
    [
        (0, "0 s"),
        (59_900_000, "59 s"),
        (60_000_000, "1 min"),
        (HOUR, "1 h"),
        (24 * HOUR, "1 day"),
        (72 * HOUR, "3 days"),
    ],
)
def test_spans_are_in_their_largest_unit(us: int, said: str) -> None:
    assert span(us) == said


def test_numbers_have_the_digits_that_tell_something() -> None:
    assert [number(value) for value in (0, 1234567, 0.031, 12.34, 123.4)] == ["0", "1,234,567", "0.03", "12.3", "123"]
    assert [seconds(value) for value in (None, 0.002, 1.4)] == ["\N{EN DASH}", "2 ms", "1.40 s"]
    assert [time_class(text) for text in ("1h", "30d", "never", "0", "1m")] == [
        "1 hour", "30 days", "never", "nothing", "1 minute",
    ]  # fmt: skip


def test_a_device_is_named_by_what_it_says_each_thing_once() -> None:
    assert device("Android", "Android", "3.2.0") == "Android · 3.2.0"
    assert device("iPhone", "iOS") == "iPhone · iOS"
    assert device("", None, None) == "A device"
    described = {"deviceType": "Android", "deviceOS": "Android", "appVersion": "3.2.0"}
    assert told("session_created", described) == "signed in: Android · 3.2.0"
    assert told("device_described", described) == "says it is Android · 3.2.0"


def test_instants_in_sentences_are_told_to_the_second_and_acks_as_they_are() -> None:
    says = "It left since 2026-11-29T16:11:30.843465Z, at AssetV2|2026-11-29T16:11:30.843465Z|x.\u202e"
    assert prose(says) == "It left since 2026-11-29 16:11:30 UTC, at AssetV2|2026-11-29T16:11:30.843465Z|x.�"
    assert [ago(us) for us in (0, 999_999, 1_000_000, HOUR)] == ["just now", "just now", "1 s ago", "1 h ago"]


def test_each_way_a_stream_ends_has_words() -> None:
    assert set(ENDS) == set(get_args(How))
    assert [how for how in ENDS if colour(how) != "bad"] == ["completed", "ended"]


@pytest.mark.parametrize("tag", TAGS)
def test_each_event_is_told_whatever_of_it_is_known(tag: str) -> None:
    assert told(tag, {}) != ""
    assert "\n" not in told(
        tag, {"by": "a\nb", "reason": "a\nb", "cause": "a\nb", "deviceType": "a\nb", "says": "x\ny"}
    )


def test_a_plot_keeps_every_count_and_stays_inside_of_its_picture() -> None:
    buckets = [
        Bucket(0, "2026-01-01T00:00:00.000000Z", offers=1, others=1),
        Bucket(7, "2026-01-01T07:00:00.000000Z", offers=3, acks=9, stale=2, refused=1, streams={"gone": 3}),
        Bucket(9, "2026-01-01T09:00:00.000000Z", resets=1, streams={"completed": 4}),
    ]  # fmt: skip
    plot = Plot(
        session_id="0" * 64,
        since="2026-01-01T00:00:00.000000Z",
        until="2026-01-01T09:59:59.999999Z",
        bucket_s=3600.0,
        first_at="2026-01-01T00:00:00.000000Z",
        last_at="2026-01-02T00:00:00.000000Z",
        events=20,
        below_floor=False,
        cut=False,
        broken=None,
        buckets=buckets,
    )
    found = drawn(plot, "/console/devices/x")
    assert {lane.name: lane.total for lane in found.lanes} == {
        "Offers": 4, "Acks taken": 9, "Late acks": 2, "Refused acks": 1, "Resets": 1, "Streams completed": 4,
        "Streams broken off": 3, "All else": 1,
    }  # fmt: skip
    for lane in found.lanes:
        for bar in lane.bars:
            assert bar.x >= 0
            assert bar.x + bar.width <= WIDTH
            assert bar.y + bar.height == pytest.approx(HEIGHT, abs=0.2)
    names = [name for name, _ in found.links]
    assert names == ["Zoom in", "Zoom out", "Later", "All"]


def test_bars_are_as_far_as_the_device_is() -> None:
    def of(kind: str, total: int | None, has: int | None) -> TypeHealth:
        behind = None if total is None or has is None else total - has
        return TypeHealth(kind, None, None, None, None, None, total, has, behind, 0, 0)

    types = [of("A", 0, 0), of("B", 200, 50), of("C", None, None), of("D", 7, 7), of("SyncCompleteV1", None, None)]
    assert [(bar.health.type, bar.percent, bar.known) for bar in bars(types)] == [
        ("B", 25.0, True), ("C", 0.0, False), ("D", 100.0, True),
    ]  # fmt: skip
    assert nothing_of(types) == ["A"]


def test_a_line_goes_from_one_side_to_the_other() -> None:
    assert line([]) == ("", "")
    points, area = line([0, 5, 10])
    assert points == "0.0,26.0 500.0,14.0 1000.0,2.0"
    assert area.startswith(f"0,{HEIGHT} ")
    assert area.endswith(f" 1000.0,{HEIGHT}")


def test_only_pages_of_the_console_are_gone_on_to() -> None:
    for place in ("/console", "/console/devices?q=a%20b&ended=true", "/console/devices/" + "a" * 64):
        assert safe_next(place) == place
    for place in ("", "/", "/docs", "//x/console", "/console/..", "/console//x", "/console/sign-in", "/console/é"):
        assert safe_next(place) == "/console"
