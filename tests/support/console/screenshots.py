"""`make screenshots`: every page of the console, by day, by night and on a phone, as pictures in a folder."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Page

from projections.accounts.console_access import ConsoleAccess, Holder
from tests.support.browser import browsing, page
from tests.support.console.fleet import Fleet, assemble, lives_for
from tests.support.phones.http import Live
from tests.support.stores.servers import RedisServer, valkey_binary

LOOKS: Final[dict[str, dict[str, Any]]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 800}, "device_scale_factor": 2},
}

MINE: Final = "my-devices"


def addresses(fleet: Fleet) -> dict[str, str]:
    """Name the pages that are pictured, by what they show."""
    device = "/console/devices/"
    return {
        "devices": "/console/devices",
        "devices-of-a-user": "/console/devices?q=ann&ended=true&order=seen",
        "device-stuck": device + fleet.stuck,
        "device-well": device + fleet.well,
        "device-asked": device + fleet.asked,
        "device-ended": device + fleet.ended,
        "reset": f"{device}{fleet.well}/reset",
        "sign-out": f"{device}{fleet.well}/sign-out",
        "ledger": "/console/ledger",
        "not-found": device + "0" * 64,
        "tail": "/console/tail",
    }


async def sign_in(opened: Page, url: str, key: str) -> None:
    """Sign a browser in at the console with an API key."""
    await opened.goto(url + "/console")
    await opened.get_by_label("API key").fill(key)
    await opened.get_by_role("button", name="Sign in").click()
    await opened.wait_for_url("**/console/devices")


async def sign_in_as(opened: Page, live: Live, user: str, sid: str) -> None:
    """Sign a browser in at the console as a user who did so at a provider, with a session of theirs."""
    access = ConsoleAccess(live.service.store)
    making = access.open(Holder("user", user=user, sid=sid), live.service.clock())
    secret = await asyncio.to_thread(live.run, making)
    await opened.context.add_cookies([{"name": "ledger-console", "value": secret, "url": live.url}])


async def take(live: Live, fleet: Fleet, key: str, folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Take pictures of all pages in all looks; returns the files."""
    taken = []
    async with browsing() as browser:
        for look, options in LOOKS.items():
            async with AsyncExitStack() as stack:
                opened = await stack.enter_async_context(page(browser, strict=False, **options))
                await opened.goto(live.url + "/console/sign-in")
                pages = {"sign-in": "/console/sign-in", MINE: f"/console/{MINE}"} | addresses(fleet)
                by_key = False
                for name, address in pages.items():
                    if only and name not in only:
                        continue
                    if name == MINE:
                        await sign_in_as(opened, live, "ann", fleet.well)
                    elif name in addresses(fleet) and not by_key:
                        await opened.context.clear_cookies()
                        await sign_in(opened, live.url, key)
                        by_key = True
                    await opened.goto(live.url + address)
                    if name == "tail":
                        await opened.get_by_text("live", exact=True).wait_for()
                        await asyncio.to_thread(live.run, lives_for(live.service, "ann", fleet.well, 6))
                        await opened.locator(".tail li").nth(15).wait_for()
                    await opened.wait_for_timeout(300)
                    file = folder / f"{name}-{look}.png"
                    await opened.screenshot(path=file, full_page=True)
                    taken.append(file)
    return taken


def main(arguments: Sequence[str]) -> None:
    """Take the pictures into the folder that is given, or a new one, and print where they are."""
    folder = Path(next(iter(arguments), "") or tempfile.mkdtemp(prefix="syncledger-screenshots-"))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="syncledger-store-") as store:
        with RedisServer(valkey_binary(), Path(store)) as server, Live(server.url) as live:
            fleet = live.run(assemble(live.service))
            scopes = ("audit.read", "sessions.manage")
            key, _ = live.run(live.service.api_keys.create(scopes, name="on-call", now_us=1))
            taken = asyncio.run(take(live, fleet, key, folder, arguments[1:]))
    print(f"{len(taken)} pictures in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
