"""What a device says about itself."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.accounts.device_descriptions import MAX_CHARS, MAX_USER_AGENT_CHARS, REMEMBERED, Device, describe

MOZILLA = "Mozilla/5.0"
GECKO = "(KHTML, like Gecko)"
CHROME = f"{MOZILLA} (X11; Linux x86_64) AppleWebKit/537.36 {GECKO} Chrome/120.0.0.0 Safari/537.36"
IPHONE = f"{MOZILLA} (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 {GECKO} Version/17.4 Mobile/15E148 Safari/604.1"  # noqa: E501
IPAD = f"{MOZILLA} (iPad; CPU OS 17_4 like Mac OS X) AppleWebKit/605.1.15 {GECKO} CriOS/120.0.0.0 Mobile/15E148 Safari/604.1"  # noqa: E501
FIREFOX = f"{MOZILLA} (Macintosh; Intel Mac OS X 10.15; rv:121.0) Gecko/20100101 Firefox/121.0"
EDGE = (
    f"{MOZILLA} (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 {GECKO} Chrome/120.0.0.0 Safari/537.36 Edg/120.0.0.0"
)
PIXEL = f"{MOZILLA} (Linux; Android 14; Pixel 8) AppleWebKit/537.36 {GECKO} Chrome/120.0.0.0 Mobile Safari/537.36"
SAMSUNG = f"{MOZILLA} (Linux; Android 10; K) AppleWebKit/537.36 {GECKO} SamsungBrowser/23.0 Chrome/115.0.0.0 Mobile Safari/537.36"  # noqa: E501
OPERA = (
    f"{MOZILLA} (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 {GECKO} Chrome/120.0.0.0 Safari/537.36 OPR/106.0.0.0"
)


@pytest.mark.parametrize(
    ("user_agent", "model", "system", "expected"),
    [
        ("immich-android/3.2.0", "Pixel 8", "Android", Device("Pixel 8", "Android", "3.2.0")),
        ("immich-android/3.2.0", "", "", Device("", "Android", "3.2.0")),
        ("immich-ios/3.2.2", "iPhone15,2", "iOS", Device("iPhone15,2", "iOS", "3.2.2")),
        ("immich-ios/3.2.2", "", "", Device("", "iOS", "3.2.2")),
        ("immich-unknown/3.2.2", "", "iOS", Device("", "iOS", "3.2.2")),
        ("immich-unknown/3.2.2", "", "", Device("", "", "3.2.2")),
        ("Immich_Android_1.94.0", "Pixel 4a", "Android", Device("Pixel 4a", "Android", "1.94.0")),
        ("Immich_Android_1.94.0", "", "", Device("", "Android", "1.94.0")),
        ("Immich_iOS_1.94.0+12", "", "", Device("", "iOS", "1.94.0+12")),
        ("Immich_Unknown_1.0", "", "", Device("", "", "1.0")),
        ("immich-Android/3.2.0", "", "", Device("", "Android")),
        ("immich-android/", "Pixel 8", "Android", Device("Pixel 8", "Android")),
        ("immich-android/ \x00", "Pixel 8", "Android", Device("Pixel 8", "Android")),
        (f"immich-ios/{'7' * 600}", "", "", Device("", "iOS", "7" * MAX_CHARS)),
    ],
)
def test_apps(user_agent: str, model: str, system: str, expected: Device) -> None:
    assert describe(user_agent, model, system) == expected
    assert expected.is_app == (expected.app_version is not None)


@pytest.mark.parametrize(
    ("user_agent", "expected"),
    [
        (CHROME, Device("Chrome", "Linux")),
        (IPHONE, Device("Mobile Safari", "iOS")),
        (IPAD, Device("Chrome Mobile iOS", "iOS")),
        (FIREFOX, Device("Firefox", "macOS")),
        (EDGE, Device("Edge", "Windows")),
        (PIXEL, Device("Chrome Mobile", "Android")),
        (SAMSUNG, Device("Samsung Internet", "Android")),
        (OPERA, Device("Opera", "Chrome OS")),
        ("curl/8.5.0", Device("curl", "said")),
        ("node", Device("told", "said")),
        ("", Device("told", "said")),
    ],
)
def test_browsers_and_what_else_there_is(user_agent: str, expected: Device) -> None:
    assert describe(user_agent, "told", "said") == expected
    assert not expected.is_app


def test_nothing_is_known_of_a_device_that_says_nothing() -> None:
    assert describe("") == Device()


@given(st.text(st.characters()), st.text(st.characters()), st.text(st.characters()))
def test_every_value_is_bounded_and_printable(user_agent: str, model: str, system: str) -> None:
    for agent in (
        user_agent,
        f"immich-ios/{user_agent}",
        f"Immich_Android_{user_agent * 100}",
        f"{CHROME} {user_agent}",
    ):
        device = describe(agent, model * 100, system * 100)
        for value in (device.type, device.os, device.app_version or "x"):
            assert len(value) <= MAX_CHARS
            assert value.isprintable()


def test_what_is_behind_the_first_characters_is_not_looked_at() -> None:
    padding = "x" * MAX_USER_AGENT_CHARS
    assert describe(padding + CHROME) == describe(padding)
    assert describe(CHROME + padding * 1000) == Device("Chrome", "Linux")


@pytest.mark.parametrize(
    "hostile",
    [
        "(" * 512,
        "Mozilla/5.0 (" + "Android " * 60,
        "Mozilla/5.0 (Linux; Android 1" + "1" * 480,
        "Build/" * 80,
        "; " * 256,
        "Safari/1." * 50,
        "a" * 255 + " " * 255,
    ],
)
def test_no_user_agent_takes_long(hostile: str) -> None:
    describe("warm")
    began = time.process_time()
    for number in range(20):
        describe(f"{number}{hostile}")
    assert (time.process_time() - began) / 20 < 0.05


def test_what_is_remembered_is_bounded() -> None:
    for number in range(REMEMBERED + 100):
        describe(f"immich-android/{number}")
    assert describe.cache_info().currsize == REMEMBERED
