"""The console in a real browser: what somebody does there who helps another one with a phone that is stuck."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, expect

from ledger.commands import OfferStream, RequestReset
from ledger.entity_types import mask_of
from projections.accounts.console_access import ConsoleAccess
from tests.support.browser import browsing, chromium_binary, page, violations
from tests.support.console.fleet import Fleet, assemble
from tests.support.console.screenshots import LOOKS, MINE, addresses, sign_in, sign_in_as
from tests.support.phones.http import Live
from tests.support.stores.servers import RedisServer


@pytest.fixture
def live(shared_valkey: RedisServer) -> Iterator[Live]:
    chromium_binary()
    shared_valkey.flush()
    with Live(shared_valkey.url) as live:
        yield live


def key_of(live: Live, *scopes: str) -> str:
    """Make an API key."""
    return live.run(live.service.api_keys.create(scopes, name="on-call", now_us=1))[0]


@asynccontextmanager
async def at_the_console(live: Live, *, strict: bool = True) -> AsyncIterator[Page]:
    """Open the console in a browser, signed in with a link that the command makes."""
    access = ConsoleAccess(live.service.store)
    secret = live.run(access.make_link("root", ("audit.read", "sessions.manage"), live.service.clock()))
    async with browsing() as browser, page(browser, strict=strict) as opened:
        await opened.goto(f"{live.url}/console/link#{secret}")
        await opened.wait_for_url("**/console/devices")
        yield opened


async def helps(opened: Page, live: Live, fleet: Fleet) -> None:
    """Find the device that is stuck, read why, ask it to start over, and see in the tail what it does."""
    url = live.url
    first = opened.get_by_role("row").nth(1)
    await expect(first).to_contain_text("stuck")
    await expect(first).to_contain_text("bob")
    await first.get_by_role("link").first.click()
    assert opened.url == f"{url}/console/devices/{fleet.stuck}"
    await expect(opened.get_by_role("region", name="How it is doing")).to_contain_text("left its last 3 streams")

    await opened.get_by_role("link", name="Ask for a reset").click()
    await opened.get_by_role("button", name="Have it start over").click()
    await expect(opened.locator(".notice")).to_contain_text("asked to start over")

    tail = await opened.context.new_page()
    await tail.goto(f"{url}/console/tail?session={fleet.stuck}")
    await expect(tail.get_by_role("status")).to_have_text("live")
    offer = OfferStream(live.service.clock(), mask_of(("AssetV2",)))
    await asyncio.to_thread(live.run, live.service.ledger.execute("bob", fleet.stuck, offer))
    await expect(tail.get_by_role("log")).to_contain_text("was sent a reset")
    await tail.get_by_role("button", name="Pause").click()
    await asyncio.to_thread(live.run, live.service.ledger.execute("bob", fleet.stuck, RequestReset(False, by=b"")))
    await expect(tail.get_by_role("status")).to_have_text("paused, 1 new")
    await tail.get_by_role("button", name="Go on").click()
    await expect(tail.get_by_role("listitem").first).to_contain_text("no longer asked to start over")
    await tail.get_by_role("link").filter(has_text=fleet.stuck[:12]).first.click()
    await tail.close()


async def test_a_stuck_device_is_found_and_helped(live: Live) -> None:
    fleet = live.run(assemble(live.service, users=3, times=8))
    async with at_the_console(live) as opened:
        assert "#" not in opened.url
        assert await violations(opened) == []
        await helps(opened, live, fleet)

        await opened.goto(f"{live.url}/console/devices/{fleet.well}")
        assert await violations(opened) == []
        slider = opened.get_by_role("slider", name="Instant")
        await slider.focus()
        await slider.press("Home")
        state = opened.locator("#state")
        await expect(state).to_contain_text("It had acknowledged nothing yet")
        await slider.press("End")
        await expect(state).to_contain_text("AssetV2")

        plot = opened.locator("[data-plot] svg").first
        await plot.scroll_into_view_if_needed()
        box = await plot.bounding_box()
        assert box is not None
        await opened.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 5)
        await opened.mouse.down()
        await opened.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 5)
        await opened.mouse.up()
        await opened.wait_for_url(re.compile("from="))
        await expect(opened.get_by_role("link", name="Zoom out")).to_be_visible()

        await opened.get_by_role("link", name="Sign this device out").click()
        await opened.get_by_role("button", name="Sign it out").click()
        await expect(opened.locator(".notice")).to_contain_text("signed out")
        assert await asyncio.to_thread(live.run, live.service.ledger.look(0, fleet.well)) is None

        await opened.get_by_role("button", name="Sign out").click()
        await opened.wait_for_url("**/console/sign-in")
        await opened.go_back()
        await expect(opened.get_by_role("heading", name="Sign in to the console")).to_be_visible()
        assert "iPhone" not in await opened.content()


@pytest.mark.soak
async def test_one_of_two_thousand_is_found_and_helped(live: Live) -> None:
    fleet = live.run(assemble(live.service, users=2000, times=8), within_s=600)
    async with at_the_console(live) as opened:
        await helps(opened, live, fleet)
        await opened.goto(f"{live.url}/console/devices")
        seen: set[str] = set()
        while True:
            links = opened.get_by_role("rowheader").get_by_role("link")
            seen |= {str(await link.get_attribute("href")) for link in await links.all()}
            onward = opened.get_by_role("link", name="Next page")
            if not await onward.count():
                break
            await onward.click()
        assert len(seen) == 2000 + 3, "each living device once, on one page or another"


@pytest.mark.soak
@pytest.mark.parametrize("look", LOOKS)
async def test_people_can_use_every_page(live: Live, look: str) -> None:
    fleet = live.run(assemble(live.service))
    key = key_of(live, "audit.read", "sessions.manage")
    async with browsing() as browser, page(browser, strict=False, **LOOKS[look]) as opened:
        await opened.goto(live.url + "/console/sign-in")
        wrong = {"sign-in": await violations(opened)}
        await sign_in_as(opened, live, "ann", fleet.well)
        await opened.goto(f"{live.url}/console/{MINE}")
        await expect(opened.get_by_role("heading", name="My devices")).to_be_visible()
        wrong[MINE] = await violations(opened)
        await opened.context.clear_cookies()
        await sign_in(opened, live.url, key)
        for name, address in addresses(fleet).items():
            await opened.goto(live.url + address)
            wrong[name] = await violations(opened)
            width = await opened.evaluate("document.scrollingElement.scrollWidth - innerWidth")
            assert width <= 0, f"{name} is {width} pixels too wide"
        assert {name: told for name, told in wrong.items() if told} == {}


@pytest.mark.soak
async def test_pages_work_without_scripts(live: Live) -> None:
    fleet = live.run(assemble(live.service, users=3, times=8))
    key = key_of(live, "audit.read", "sessions.manage")
    async with browsing() as browser, page(browser, java_script_enabled=False) as opened:
        await sign_in(opened, live.url, key)
        await opened.get_by_role("link", name="iPhone").first.click()
        await opened.get_by_role("link", name="Zoom in").click()
        await expect(opened.get_by_role("link", name="Zoom out")).to_be_visible()
        await opened.locator("form.slider button").click()
        await expect(opened.locator("#state")).to_contain_text("signed in")
        await opened.goto(f"{live.url}/console/devices/{fleet.well}/sign-out")
        await opened.get_by_role("button", name="Sign it out").click()
        await expect(opened.locator(".notice")).to_contain_text("signed out")
        secret = live.run(ConsoleAccess(live.service.store).make_link("root", ("audit.read",), live.service.clock()))
        await opened.goto(f"{live.url}/console/link")
        await opened.get_by_label("The part of the link").fill(f"{live.url}/console/link#{secret}")
        await opened.get_by_role("button", name="Sign in").click()
        await expect(opened.get_by_role("heading", name="Devices")).to_be_visible()


HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


@pytest.mark.soak
async def test_what_devices_call_themselves_neither_scripts_nor_steers(live: Live) -> None:
    user = "<script>document.title='taken'</script>"
    issued = live.run(live.service.sign_in(user, "lib", device_type=HOSTILE, device_os="'\"><svg onload=alert(1)>"))
    async with at_the_console(live) as opened:  # which fails where the policy has to refuse anything
        for path in ("devices", f"devices/{issued.sid}", f"devices/{issued.sid}/sign-out"):
            await opened.goto(f"{live.url}/console/{path}")
            assert await opened.title() != "taken"
            await expect(opened.get_by_text(HOSTILE).first).to_be_visible()
        await opened.goto(f"{live.url}/console/tail")
        await expect(opened.get_by_role("status")).to_have_text("live")
        await asyncio.to_thread(live.run, live.service.sign_in(user, "lib", device_type=HOSTILE))
        await expect(opened.get_by_role("log")).to_contain_text(HOSTILE)
        assert await opened.locator("main img, main script, .tail svg").count() == 0
        assert await opened.title() != "taken"


@pytest.mark.soak
async def test_nobody_frames_it(live: Live) -> None:
    async with at_the_console(live) as opened:
        frame = await opened.context.new_page()
        await frame.set_content(f'<iframe src="{live.url}/console/devices"></iframe>')
        inner = frame.frame_locator("iframe").get_by_role("heading", name="Devices")
        await frame.wait_for_timeout(1500)
        assert await inner.count() == 0


async def test_the_tail_tries_again_where_it_was_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("endpoints.console.tail.AGAIN_S", 0.2)
    issued = live.run(live.service.sign_in("ann", "lib"))
    seats = live.service.services.feed.seats
    most, seats.most = seats.most, 0
    async with at_the_console(live, strict=False) as opened:
        await opened.goto(f"{live.url}/console/tail")
        status = opened.get_by_role("status")
        await expect(status).to_have_text("connecting again")
        seats.most = most
        await expect(status).to_have_text("live")
        await asyncio.to_thread(live.run, live.service.ledger.execute("ann", issued.sid, RequestReset(True, by=b"")))
        await expect(opened.get_by_role("log")).to_contain_text("asked to start over")
        assert await opened.get_by_role("listitem").count() == 1
