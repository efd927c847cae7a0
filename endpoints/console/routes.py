"""Every address of the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from endpoints.console.actions import WORDS, Action
from endpoints.console.device import Device, DeviceQuery
from endpoints.console.devices import DevicesList, DevicesQuery, Home, MyDevices
from endpoints.console.ledger import Overview
from endpoints.console.pages import FILES, PLACE, SIGN_IN, File
from endpoints.console.signing_in import CALLBACK, Link, Provider, SignInPage, SignOut
from endpoints.console.tail import Tail, TailQuery
from endpoints.console.visitors import Visitors
from endpoints.http.operations import EVENT_STREAM, NOBODY, Operation, Route, Text
from endpoints.services import Services

_PAGE: Final = Text("text/html", "A page")
_FORM: Final = Text("application/x-www-form-urlencoded", "The form of the page, with its token")


def routes(services: Services) -> Iterator[Route]:
    """List the pages, and the files they load."""
    for route in _routes(services):
        yield msgspec.structs.replace(route, for_people=True)


def files() -> Iterator[Route]:
    """List what pages load."""
    for name, media_type in FILES.items():
        text = Text(media_type.partition(";")[0], "A part of the pages")
        operation = Operation("GET", f"getConsolePart_{name}", "Load a part of the pages", {200: text}, NOBODY)
        yield Route(f"{PLACE}/{name}", File(name), (operation,), for_people=True)


def _routes(services: Services) -> Iterator[Route]:
    visitors = Visitors(services)
    yield Route(PLACE, Home(visitors), (_page("Home", "Go to the first page of the console"),))
    sign_in = SignInPage(services, visitors)
    yield Route(SIGN_IN, sign_in, (_page("SignIn", "Sign in at the console"), _form("SignIn", "Sign in by API key")))
    link = Link(services, visitors)
    yield Route(f"{PLACE}/link", link, (_page("Link", "Open a one-time link"), _form("Link", "Sign in by link")))
    provider = Provider(services, visitors)
    yield Route(f"{SIGN_IN}/provider", provider, (_page("Provider", "Go to the identity provider"),))
    yield Route(CALLBACK, provider, (_page("Callback", "Come back from the identity provider"),), suffix="callback")
    yield Route(f"{PLACE}/sign-out", SignOut(services, visitors), (_form("SignOut", "Sign out of the console"),))
    yield Route(
        f"{PLACE}/devices", DevicesList(services, visitors), (_page("Devices", "See all devices", DevicesQuery),)
    )
    yield Route(
        f"{PLACE}/my-devices",
        MyDevices(services, visitors),
        (_page("MyDevices", "See one's own devices", DevicesQuery),),
    )
    device, at = Device(services, visitors), f"{PLACE}/devices/{{session_id}}"
    yield Route(at, device, (_page("Device", "See a device", DeviceQuery),))
    yield Route(f"{at}/state", device, (_page("DeviceState", "See how a device was", DeviceQuery),), suffix="state")
    yield Route(f"{at}/proof", device, (_page("DeviceProof", "Keep what proves a device's history"),), suffix="proof")
    for name, words in WORDS.items():
        title = "".join(part.title() for part in name.split("-"))
        operations = (_page(f"{title}Device", f"{words.title}: ask"), _form(f"{title}Device", words.title))
        yield Route(f"{at}/{name}", Action(services, visitors, name), operations)
    yield Route(f"{PLACE}/ledger", Overview(services, visitors), (_page("Ledger", "See the whole ledger"),))
    tail = Tail(services, visitors)
    yield Route(f"{PLACE}/tail", tail, (_page("Tail", "See events as they happen", TailQuery),))
    events = Text(EVENT_STREAM, "Events in words, as server-sent events")
    told = Operation(
        "GET",
        "getConsoleTail",
        "Tell what happens, for the page",
        {200: events},
        NOBODY,
        query=TailQuery,
        refusals=(401, 404),
    )
    yield Route(f"{PLACE}/tail/events", tail, (told,), suffix="events")
    yield from files()


def _page(name: str, summary: str, query: type[msgspec.Struct] | None = None) -> Operation:
    answers = {200: _PAGE, 303: None}
    return Operation("GET", f"showConsole{name}", summary, answers, NOBODY, query=query, refusals=(403, 404, 503))


def _form(name: str, summary: str) -> Operation:
    return Operation(
        "POST", f"sendConsole{name}", summary, {303: None}, NOBODY, body=_FORM, refusals=(401, 403, 404, 429)
    )
