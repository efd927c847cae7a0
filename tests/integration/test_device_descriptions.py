"""What is known of a device gets better or stays: no request blanks it or puts a browser in the app's place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from endpoints.accounts.device_descriptions import Device
from ledger.personal import text_of
from tests.support.phones.http import Service, serving
from tests.support.stores.fake_store import FakeStore
from tests.unit.test_device_descriptions import CHROME

KNOWN = Device("Pixel 8", "Android", "3.2.0")
POORER: tuple[dict[str, str], ...] = (
    {},
    {"user-agent": "immich-android/3.2.0"},
    {"user-agent": "immich-unknown/3.2.0"},
    {"user-agent": "Immich_Unknown_3.2.0"},
    {"user-agent": "immich-android/3.2.0", "deviceModel": "", "deviceType": ""},
    {"user-agent": "immich-android/3.2.0", "deviceModel": " \t"},
    {"user-agent": "immich-android/", "deviceModel": "iPhone15,2", "deviceType": "iOS"},
    {"user-agent": "Immich/1 CFNetwork/1410.0.3 Darwin/22.6.0"},
    {"user-agent": "okhttp/4.12.0"},
    {"user-agent": "Dart/3.5 (dart:io)"},
    {"user-agent": CHROME, "deviceModel": "Chrome", "deviceType": "Linux"},
    {"user-agent": "", "deviceModel": "Other", "deviceType": "Other"},
)
ENDING = {("post", "/api/auth/logout"), ("post", "/auth/logout"), ("delete", "/api/sessions/{session_id}")}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The app over a store in this process."""
    async with serving(FakeStore()) as running:
        yield running


async def known(service: Service, sid: str) -> Device:
    """Tell what is known of a session's device."""
    state = await service.ledger.load("ann", sid)
    told = [text_of(text) or "" for text in (state.device_type, state.device_os, state.app_version)]
    return Device(told[0], told[1], told[2] or None)


async def test_no_request_anywhere_degrades_what_is_known(service: Service) -> None:
    device = await service.sign_in("ann", device_type=KNOWN.type, device_os=KNOWN.os, app_version=KNOWN.app_version)
    paths = (await service.ask("GET", "/openapi.json")).json["paths"]
    asked = 0
    for path, operations in paths.items():
        for method in operations:
            if method == "parameters" or (method, path) in ENDING or path == "/sessions/{session_id}":
                continue
            filled = path.replace("{session_id}", device.sid).replace("{library}", "lib")
            for headers in POORER:
                body: Any = {"types": []} if "sync/stream" in path else None
                answer = await service.ask(method.upper(), filled, device.token, json=body, headers=headers)
                assert answer.status_code < 500, (method, path)
                asked += answer.status_code < 400
                assert await known(service, device.sid) == KNOWN, (method, path, headers)
    assert asked > 10 * len(POORER), "hardly any request was taken"


@pytest.mark.parametrize("headers", POORER)
async def test_the_first_requests_of_an_app_fill_in_what_they_tell(service: Service, headers: dict[str, str]) -> None:
    device = await service.sign_in()
    for told in (headers, {"user-agent": "immich-android/3.2.0", "deviceModel": "Pixel 8"}, headers):
        await service.ask("GET", "/api/users/me", device.token, headers=told)
    assert await known(service, device.sid) == KNOWN


async def test_a_newer_app_and_system_are_noted(service: Service) -> None:
    device = await service.sign_in()
    for version in ("3.2.0", "3.2.1", "3.2.1"):
        told = {"user-agent": f"immich-ios/{version}", "deviceModel": "iPhone15,2", "deviceType": "iOS"}
        await service.ask("GET", "/api/users/me", device.token, headers=told)
    assert await known(service, device.sid) == Device("iPhone15,2", "iOS", "3.2.1")
    assert (await service.ledger.load("ann", device.sid)).seq == 3


async def test_a_browser_stays_what_it_was_at_sign_in(service: Service) -> None:
    device = await service.sign_in("ann", device_type="Chrome", device_os="Linux")
    for headers in ({"user-agent": "curl/8.5.0"}, {}, {"user-agent": "Mozilla/5.0 (Windows NT 10.0) Firefox/121.0"}):
        await service.ask("GET", "/api/users/me", device.token, headers=headers)
    assert await known(service, device.sid) == Device("Chrome", "Linux")
