"""What a device says about itself: the app's User-Agent, its headers, or a browser's User-Agent.

An app is `immich-android/3.2.0` or, older, `Immich_Android_1.94.0`. Of a browser only the name and the system are
kept, in few words: nobody is to be recognised by it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from endpoints.request import Request

MAX_CHARS: Final = 64
_APP: Final = re.compile(r"^(?:immich-(android|ios|unknown)/|Immich_(Android|iOS|Unknown)_)(.+)$")
_SYSTEMS: Final = {"android": "Android", "ios": "iOS"}
# In order: a browser names its ancestors too, so the most special comes first.
_BROWSERS: Final = (
    ("Edge", ("Edg/", "EdgA/", "EdgiOS/")),
    ("Opera", ("OPR/",)),
    ("Samsung Internet", ("SamsungBrowser/",)),
    ("Firefox", ("Firefox/", "FxiOS/")),
    ("Chrome", ("Chrome/", "CriOS/")),
    ("Safari", ("Safari/",)),
    ("curl", ("curl/",)),
)
_PLATFORMS: Final = (
    ("iOS", ("iPhone", "iPad")),
    ("Android", ("Android",)),
    ("Windows", ("Windows NT",)),
    ("macOS", ("Mac OS X", "Macintosh")),
    ("Chrome OS", ("CrOS",)),
    ("Linux", ("Linux", "X11")),
)


class Device(NamedTuple):
    """What is known of a device; empty or None where nothing is."""

    type: str = ""
    os: str = ""
    app_version: str | None = None


def device_of(req: Request) -> Device:
    """Describe the device a request comes from."""
    model, system = req.get_header("devicemodel") or "", req.get_header("devicetype") or ""
    return describe(req.get_header("user-agent") or "", model, system)


@lru_cache(1024)
def describe(user_agent: str, model: str = "", system: str = "") -> Device:
    """Describe a device by its User-Agent and the values of the headers `deviceModel` and `deviceType`.

    What the User-Agent tells goes before the headers, as upstream does it; each value is cut to MAX_CHARS.
    """
    app = _APP.match(user_agent)
    if app:
        os = _SYSTEMS.get((app[1] or app[2]).lower(), "")
        return Device(_clean(model), _clean(os or system), _clean(app[3]) or None)
    browser = _named(_BROWSERS, user_agent)
    return Device(_clean(browser or model), _clean(_named(_PLATFORMS, user_agent) or system))


def _named(table: tuple[tuple[str, tuple[str, ...]], ...], user_agent: str) -> str:
    return next((name for name, marks in table if any(mark in user_agent for mark in marks)), "")


def _clean(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:MAX_CHARS].strip()
