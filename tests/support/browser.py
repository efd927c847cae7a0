"""A real Chromium, driven by Playwright: one process for the tests of a worker, a fresh profile for each page."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page, async_playwright

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
SERIOUS: Final = {"serious", "critical"}


def chromium_binary() -> str:
    """Find the system's Chromium; skips the test where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Run a browser that reaches nothing but this machine."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_binary(),
            # Tests run as root in containers, whose kernel lets nobody make a sandbox; pages are our own.
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page(browser: Browser, *, strict: bool = True, **options: Any) -> AsyncIterator[Page]:
    """Open a page in a profile of its own; nothing may be thrown or asked elsewhere, nor, where `strict`, refused."""
    context = await browser.new_context(**options)
    opened = await context.new_page()
    told: list[str] = []
    opened.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("request", lambda request: told.append(request.url) if not _is_local(request.url) else None)
    try:
        yield opened
        assert [what for what in told if strict or "the server responded with a status of" not in what] == []
    finally:
        await context.close()


async def violations(opened: Page) -> list[str]:
    """Ask axe what keeps people from using a page: what is serious or critical, each with where it is."""
    await opened.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = await opened.evaluate("axe.run()")
    return [
        f"{one['id']}: {json.dumps([node['target'] for node in one['nodes']])}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))
