"""What a device says about itself: the app's User-Agent, its headers, or a browser's User-Agent.

An app is `immich-android/3.2.0` or, older, `Immich_Android_1.94.0`. Of a browser only its name and its system's are
kept, without versions: nobody is to be recognised by them. Browsers are told apart by uap-core's patterns, which the
`ua-parser` package keeps up to date; its Rust engine takes linear time for any text, however hostile.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ua_parser import PartialResult

    from endpoints.http.request import Request

MAX_CHARS: Final = 64
MAX_USER_AGENT_CHARS: Final = 512
"""What is behind these is not looked at: the app's and browsers' are shorter."""
REMEMBERED: Final = 1024
_APP: Final = re.compile(r"^(?:immich-(android|ios|unknown)/|Immich_(Android|iOS|Unknown)_)(.+)$")
_SYSTEMS: Final = {"android": "Android", "ios": "iOS"}
_AS_UPSTREAM: Final = {"Mac OS X": "macOS"}
"""Systems whose name in uap-core is not the one clients have an icon for."""


class Device(NamedTuple):
    """What is known of a device; empty or None where nothing is."""

    type: str = ""
    os: str = ""
    app_version: str | None = None

    @property
    def is_app(self) -> bool:
        """Tell whether it is the app. Only what the app says of itself may change what is known of a session."""
        return self.app_version is not None


def device_of(req: Request) -> Device:
    """Describe the device a request comes from."""
    model, system = req.get_header("devicemodel") or "", req.get_header("devicetype") or ""
    user_agent = req.get_header("user-agent") or ""
    return describe(user_agent[:MAX_USER_AGENT_CHARS], model[:MAX_CHARS], system[:MAX_CHARS])


@lru_cache(REMEMBERED)
def describe(user_agent: str, model: str = "", system: str = "") -> Device:
    """Describe a device by its User-Agent and the values of the headers `deviceModel` and `deviceType`.

    What the User-Agent tells goes before the headers, as upstream does it; each value is cut to MAX_CHARS.
    """
    user_agent = _clean(user_agent, MAX_USER_AGENT_CHARS)
    app = _APP.match(user_agent)
    if app and (version := _clean(app[3])):
        os = _SYSTEMS.get((app[1] or app[2]).lower(), "")
        return Device(_clean(model), os or _clean(system), version)
    browser, os = _browser(user_agent)
    return Device(browser or _clean(model), os or _clean(system))


def _browser(user_agent: str) -> tuple[str, str]:
    """Name a browser and its system; empty where they are not known."""
    if not user_agent:
        return "", ""
    found = _resolver()(user_agent)
    browser, os = found.user_agent, found.os
    name = _clean(os.family) if os else ""
    return _clean(browser.family) if browser else "", _AS_UPSTREAM.get(name, name)


@cache
def _resolver() -> Callable[[str], PartialResult]:
    """Compile the patterns of browsers and systems, once a process: 0.2 s and 12 MB. Those of models are left out."""
    from ua_parser import Domain
    from ua_parser.loaders import load_lazy_builtins
    from ua_parser.regex import Resolver

    browsers, systems, _ = load_lazy_builtins()
    resolver, looked_at = Resolver((browsers, systems, [])), Domain.USER_AGENT | Domain.OS
    return lambda user_agent: resolver(user_agent, looked_at)


def _clean(text: str, longest: int = MAX_CHARS) -> str:
    return "".join(char for char in text[:longest] if char.isprintable()).strip()
