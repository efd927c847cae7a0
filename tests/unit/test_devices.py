"""What a device says about itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.devices import MAX_CHARS, Device, describe

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4 Mobile Safari/604.1"
FIREFOX = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:121.0) Gecko/20100101 Firefox/121.0"


@pytest.mark.parametrize(
    ("user_agent", "model", "system", "expected"),
    [
        ("immich-android/3.2.0", "Pixel 8", "Android", Device("Pixel 8", "Android", "3.2.0")),
        ("immich-android/3.2.0", "", "", Device("", "Android", "3.2.0")),
        ("immich-ios/3.2.2", "iPhone15,2", "iOS", Device("iPhone15,2", "iOS", "3.2.2")),
        ("immich-unknown/3.2.2", "", "iOS", Device("", "iOS", "3.2.2")),
        ("Immich_Android_1.94.0", "", "", Device("", "Android", "1.94.0")),
        ("Immich_iOS_1.94.0+12", "", "", Device("", "iOS", "1.94.0+12")),
        ("Immich_Unknown_1.0", "", "", Device("", "", "1.0")),
        ("immich-Android/3.2.0", "", "", Device("", "Android")),
        (CHROME, "", "", Device("Chrome", "Linux")),
        (IPHONE, "ignored", "ignored", Device("Safari", "iOS")),
        (FIREFOX, "", "", Device("Firefox", "macOS")),
        ("curl/8.5.0", "", "", Device("curl", "")),
        ("", "Model", "OS", Device("Model", "OS")),
        ("", "", "", Device()),
    ],
)
def test_devices(user_agent: str, model: str, system: str, expected: Device) -> None:
    assert describe(user_agent, model, system) == expected


@given(st.text(), st.text(), st.text())
def test_every_value_is_bounded_and_printable(user_agent: str, model: str, system: str) -> None:
    for agent in (user_agent, f"immich-ios/{user_agent}", f"Immich_Android_{user_agent * 100}"):
        device = describe(agent, model * 100, system * 100)
        for value in (device.type, device.os, device.app_version or "x"):
            assert len(value) <= MAX_CHARS
            assert value.isprintable()
