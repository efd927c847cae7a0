"""/docs in a real browser: searched, signed in, tried; light and dark; nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from tests.support.browser import browsing, chromium_binary, page, violations
from tests.support.phones.http import Live
from tests.support.stores.servers import RedisServer


@pytest.fixture
def live(shared_valkey: RedisServer) -> Iterator[Live]:
    chromium_binary()
    shared_valkey.flush()
    with Live(shared_valkey.url) as live:
        yield live


async def test_an_operation_is_found_signed_in_for_and_tried(live: Live) -> None:
    issued = live.run(live.service.sign_in())
    async with browsing() as browser, page(browser) as docs:
        await docs.goto(live.url + "/")
        assert docs.url == live.url + "/docs"
        await docs.get_by_role("button", name="Authorize").first.click()
        bearer = docs.locator(".auth-container").filter(has_text="A device's token")
        await bearer.get_by_role("textbox").fill(issued.token)
        await bearer.get_by_role("button", name="Apply credentials").click()
        await docs.locator(".close-modal").click()

        await docs.get_by_placeholder("Filter by tag").fill("stream changes")
        shown = docs.locator(".opblock")
        await expect(shown).to_have_count(2)  # Immich's and the seed's
        await shown.first.get_by_role("button").first.click()
        await shown.first.get_by_role("button", name="Execute").click()
        answer = shown.first.locator(".live-responses-table")
        await expect(answer).to_contain_text("200")
        await expect(answer).to_contain_text("SyncCompleteV1")


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.soak), "dark"])
async def test_people_can_read_it_by_day_and_by_night(live: Live, scheme: str) -> None:
    async with browsing() as browser, page(browser, color_scheme=scheme) as docs:
        await docs.goto(live.url + "/docs")
        await docs.locator(".opblock").first.wait_for()
        dark = await docs.evaluate("document.documentElement.classList.contains('dark-mode')")
        assert dark == (scheme == "dark")
        # Swagger UI's own: a lock inside of each operation's headline.
        assert [each for each in await violations(docs) if not each.startswith("nested-interactive")] == []
