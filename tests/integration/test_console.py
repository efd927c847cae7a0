"""The console's pages as a browser without a screen sees them: who may see and do what, and what is put on record."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator
from pathlib import Path

import falcon.testing
import msgspec
import pytest

from endpoints.audit.counts import REMEMBERED_S
from endpoints.console.ledger import TROUBLES as WORDS_OF_TROUBLES
from endpoints.routes import build_waiting
from ledger import keys
from ledger.commands import EndSession, OfferStream
from ledger.entity_types import COMPLETE, mask_of
from ledger.errors import StoreUnavailable
from ledger.store.interface import open_store
from ops.figures.of_worker import TROUBLES
from projections.accounts.console_access import MOST_OF_ONE, Holder
from projections.history.words import readable
from tests.support.console.browser import Browser, form_token
from tests.support.console.fleet import TYPES, gets_stuck, lives_for, load_library, signed_in, syncs
from tests.support.phones.http import Service, serving
from tests.support.sign_in.provider import ANN, MemoryProvider

SECOND_US = 1_000_000


async def events_of(service: Service, user: str, sid: str) -> list[tuple[str, dict[str, object]]]:
    """List what happened to a session, newest first."""
    partition, key = service.ledger.partition_of(user), await service.ledger.sealing.key_of(user)
    found = []
    async for run in service.services.past.runs(partition, sid):
        told = [readable(entry, key) for entry in run.entries]
        found += [(one.event, one.data) for one in told]
    return found


# Signing in -----------------------------------------------------------------------------------------------------------


async def test_who_is_not_signed_in_is_led_to_the_form_and_back(service: Service) -> None:
    browser = Browser(service)
    asked = await browser.open("/console/devices?q=ann")
    assert asked.headers["location"] == "/console/sign-in?next=%2Fconsole%2Fdevices%3Fq%3Dann"
    form = await browser.follow(asked)
    assert 'name="next" value="/console/devices?q=ann"' in form.text
    key, _ = await service.api_keys.create(["audit.read"], name="audit", now_us=1)
    fields = {"form": form_token(form.text), "next": "/console/devices?q=ann", "key": key}
    signed_in_at = await browser.post("/console/sign-in", fields)
    assert (signed_in_at.status_code, signed_in_at.headers["location"]) == (303, "/console/devices?q=ann")
    assert (await browser.follow(signed_in_at)).status_code == 200


async def test_a_key_that_may_see_nothing_signs_nobody_in(service: Service) -> None:
    browser = Browser(service)
    for scope, said in (("metrics.read", "lacks the scope audit.read"), ("sessions.manage", "lacks the scope")):
        key, _ = await service.api_keys.create([scope], name="", now_us=1)
        answer = await browser.send("/console/sign-in", {"key": key})
        assert (answer.status_code, said in answer.text) == (403, True)
    answer = await browser.send("/console/sign-in", {"key": "slk_guess"})
    assert (answer.status_code, "no API key" in answer.text, "slk_guess" in answer.text) == (403, True, False)
    assert (await browser.open("/console/devices")).status_code == 303


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cookies_are_for_our_pages_alone(service: Service, scheme: str) -> None:
    browser = Browser(service, scheme)
    await browser.sign_in()
    name = ("__Host-" if scheme == "https" else "") + "ledger-console"
    cookie = browser.told[name]
    assert (cookie.http_only, cookie.secure, cookie.path) == (True, scheme == "https", "/")
    assert (cookie.same_site, cookie.domain or "") == ("Strict", "")
    assert 0 < (cookie.max_age or 0) <= 8 * 3600


async def test_a_cookie_without_the_prefix_is_nobodys_over_tls(service: Service) -> None:
    plain, over_tls = Browser(service), Browser(service, "https")
    await plain.sign_in()
    over_tls.cookies["ledger-console"] = plain.cookies["ledger-console"]
    assert (await over_tls.open("/console/devices")).status_code == 303


async def test_signing_in_takes_a_new_secret_whatever_was_there(service: Service) -> None:
    """Session fixation: what somebody planted in the browser, even a session of their own, is not gone on with."""
    attacker, victim = Browser(service), Browser(service)
    await attacker.sign_in("audit.read")
    planted = attacker.cookies["ledger-console"]
    victim.cookies["ledger-console"] = planted
    await victim.sign_in("audit.read")
    assert victim.cookies["ledger-console"] != planted
    assert (await attacker.open("/console/devices")).status_code == 303, "the planted one is over"


async def test_signing_out_ends_it_at_the_service(service: Service) -> None:
    browser, copy = Browser(service), Browser(service)
    await browser.sign_in()
    copy.cookies = dict(browser.cookies)
    answer = await browser.send("/console/sign-out", page="/console/devices")
    assert (answer.headers["location"], answer.headers["clear-site-data"]) == ("/console/sign-in", '"cache"')
    assert "ledger-console" not in browser.cookies
    assert (await copy.open("/console/devices")).status_code == 303


async def test_it_ends_with_its_key_and_with_its_time(service: Service) -> None:
    browser = Browser(service)
    await browser.sign_in()
    service.clock.now_us += (8 * 3600 - 1) * SECOND_US
    assert (await browser.open("/console/devices")).status_code == 200
    service.clock.now_us += SECOND_US
    assert (await browser.open("/console/devices")).status_code == 303
    await browser.sign_in()
    [*_, kept] = await service.api_keys.all()
    for key in await service.api_keys.all():
        await service.api_keys.revoke(key.id)
    assert (await browser.open("/console/devices")).status_code == 303
    assert kept.scopes == ("audit.read",)


async def test_sessions_of_one_key_are_bounded(service: Service) -> None:
    visitors = [Browser(service) for _ in range(MOST_OF_ONE + 1)]
    key = await visitors[0].sign_in()
    for visitor in visitors[1:]:
        service.clock.now_us += 1
        await visitor.send("/console/sign-in", {"key": key})
    assert (await visitors[0].open("/console/devices")).status_code == 303
    assert [(await visitor.open("/console/devices")).status_code for visitor in visitors[1:]] == [200] * MOST_OF_ONE


async def test_all_sessions_and_links_are_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from projections.accounts import console_access

    monkeypatch.setattr(console_access, "MOST_SESSIONS", 5)
    monkeypatch.setattr(console_access, "MOST_LINKS", 3)
    access = console_access.ConsoleAccess(service.store)
    for number in range(9):
        await access.open(Holder("link", name=f"n{number}", scopes=("audit.read",)), service.clock() + number)
        await access.make_link(f"n{number}", ["audit.read"], service.clock() + number)
    for name, most in ((b"ledger:console-sessions", 5), (b"ledger:console-links", 3)):
        assert await service.store.command("HLEN", name, key=name) == most


async def test_a_link_signs_in_once_within_five_minutes(service: Service) -> None:
    from projections.accounts.console_access import ConsoleAccess

    access = ConsoleAccess(service.store)
    secret = await access.make_link("root", ["audit.read", "sessions.manage"], service.clock())
    first, second = Browser(service), Browser(service)
    assert secret not in (await first.open("/console/link")).text
    assert (await first.send("/console/link", {"secret": secret})).headers["location"] == "/console"
    assert "root" in (await first.open("/console/devices")).text
    used = await second.send("/console/link", {"secret": secret})
    assert (used.status_code, "used before" in used.text) == (403, True)
    late = await access.make_link("root", ["audit.read"], service.clock())
    service.clock.now_us += 300 * SECOND_US
    assert (await second.send("/console/link", {"secret": late})).status_code == 403
    kept = await service.store.command("HGETALL", b"ledger:console-sessions", key=b"ledger:console-sessions")
    assert secret.encode() not in b"".join(kept)


async def test_a_link_replaces_who_is_signed_in_only_where_that_is_meant(service: Service) -> None:
    from projections.accounts.console_access import ConsoleAccess

    access, browser = ConsoleAccess(service.store), Browser(service)
    await browser.sign_in()
    secret = await access.make_link("night shift", ["audit.read"], service.clock())
    for fields in ({}, {"instead": "yes"}):
        asked = await browser.send("/console/link", {"secret": secret} | fields)
        assert (asked.status_code, "key on-call" in asked.text) == (200, True)
        assert "key on-call" in (await browser.open("/console/devices")).text
    instead = re.search(r'name="instead" value="([0-9a-f]{64})"', asked.text)
    assert instead is not None
    assert (await browser.send("/console/link", {"secret": secret, "instead": instead[1]})).status_code == 303
    page = (await browser.open("/console/devices")).text
    assert ("night shift" in page, "on-call" in page) == (True, False)


async def test_guesses_are_limited(service: Service) -> None:
    browser = Browser(service)
    token = form_token((await browser.open("/console/link")).text)
    answers = [
        (await browser.post("/console/link", {"form": token, "secret": f"guess-{number}"})).status_code
        for number in range(125)
    ]
    assert answers[0] == 403
    assert answers[-1] == 429


ELSEWHERE = (
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example",
    "/console/..//evil.example",
    "/console@evil.example",
    "/consoleevil",
    "/console/%0d%0aset-cookie:x",
    "javascript:alert(1)",
    "/console\t//evil",
    "/console/sign-in",
)


@pytest.mark.parametrize("place", ELSEWHERE)
async def test_it_leads_nowhere_else(service: Service, place: str) -> None:
    browser = Browser(service)
    key, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    answer = await browser.send("/console/sign-in", {"key": key, "next": place})
    assert answer.headers["location"] == "/console"


async def test_the_bare_address_leads_to_what_was_open(service: Service) -> None:
    browser = Browser(service)
    assert (await browser.open("/")).headers["location"] == "/docs"
    await browser.sign_in()
    assert (await browser.open("/")).headers["location"] == "/console"


# Users ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def with_provider(valkey_url: str) -> AsyncIterator[tuple[Service, MemoryProvider]]:
    """A service with an identity provider."""
    store, provider = await open_store(valkey_url), MemoryProvider()
    async with serving(store, provider=provider) as service:
        yield service, provider
    await store.close()


async def sign_in_at(provider: MemoryProvider, browser: Browser, admin: bool = False) -> str:
    """Sign Ann in at the provider and come back; returns the page that goes on."""
    begun = await browser.open("/console/sign-in/provider")
    assert browser.told["ledger-console-state"].same_site == "Lax"
    back = provider.send_back(begun.headers["location"], msgspec.structs.replace(ANN, admin=admin))
    answer = await browser.open("/console/callback?" + back.partition("?")[2])
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_a_user_sees_and_ends_their_own_devices_only(
    with_provider: tuple[Service, MemoryProvider],
) -> None:
    service, provider = with_provider
    browser = Browser(service)
    page = await sign_in_at(provider, browser)
    assert '<meta http-equiv="refresh" content="0;url=/console">' in page
    home = await browser.open("/console")
    assert home.headers["location"] == "/console/my-devices"
    [user] = {state.user for state in await service.ledger.devices(await user_of(service))}
    own = await signed_in(service, user)
    other = await signed_in(service, "bob", 1)
    assert (await browser.open(f"/console/devices/{own}")).status_code == 200
    hidden, missing = [await browser.open(f"/console/devices/{sid}") for sid in (other, "0" * 64)]
    assert (hidden.status_code, missing.status_code) == (404, 404)
    assert bare(hidden.text) == bare(missing.text), "what is another user's is as if it were not there"
    for path in ("", "/state", "/proof", "/reset", "/sign-out", "/take-back"):
        assert (await browser.open(f"/console/devices/{other}{path}")).status_code == 404
    for path in ("/console/devices", "/console/ledger"):
        assert (await browser.open(path)).status_code == 403
    token = form_token((await browser.open("/console/my-devices")).text)
    for action in ("reset", "take-back", "sign-out"):
        assert (await browser.post(f"/console/devices/{other}/{action}", {"form": token})).status_code == 404
    assert [tag for tag, _ in await events_of(service, "bob", other)] == ["session_created"]
    done = await browser.send(f"/console/devices/{own}/sign-out")
    assert done.status_code == 303
    assert (await events_of(service, user, own))[0] == ("session_ended", {"reason": "revoked", "by": user})


async def user_of(service: Service) -> str:
    """Tell Ann's user."""
    user = await service.identities.user_of(ANN.issuer, ANN.subject)
    assert user is not None
    return user


def bare(page: str) -> str:
    """Take an answer's own id out of a page."""
    return re.sub(r"<code>.*?</code>", "", page)


async def test_an_administrator_sees_all_for_as_long_as_they_are_one(
    with_provider: tuple[Service, MemoryProvider],
) -> None:
    service, provider = with_provider
    browser, again = Browser(service), Browser(service)
    await sign_in_at(provider, browser, admin=True)
    sid = await signed_in(service, "bob")
    assert "Ask for a reset" in (await browser.open(f"/console/devices/{sid}")).text
    await sign_in_at(provider, again, admin=False)
    assert (await browser.open(f"/console/devices/{sid}")).status_code == 404


async def test_a_user_who_was_signed_out_elsewhere_is_signed_out_here(
    with_provider: tuple[Service, MemoryProvider],
) -> None:
    service, provider = with_provider
    browser = Browser(service)
    await sign_in_at(provider, browser)
    user = await user_of(service)
    [state] = await service.ledger.devices(user)
    assert state.over_at_us == state.created_at_us + 8 * 3600 * SECOND_US
    await service.ledger.execute(user, state.sid, EndSession("provider_logout"))
    assert (await browser.open("/console/my-devices")).status_code == 303
    await sign_in_at(provider, browser)
    await browser.send("/console/sign-out", page="/console/my-devices")
    assert await service.ledger.devices(user) == []


async def test_a_callback_that_is_not_of_this_browser_signs_nobody_in(
    with_provider: tuple[Service, MemoryProvider],
) -> None:
    service, provider = with_provider
    attacker, victim = Browser(service), Browser(service)
    begun = await attacker.open("/console/sign-in/provider")
    back = provider.send_back(begun.headers["location"])
    answer = await victim.open("/console/callback?" + back.partition("?")[2])
    assert answer.status_code == 403
    assert "ledger-console" not in victim.cookies


# Devices --------------------------------------------------------------------------------------------------------------


async def test_a_stuck_device_tells_why(service: Service) -> None:
    await load_library(service, 20)
    sid = await signed_in(service, "bob", 1)
    await syncs(service, "bob", sid)
    await gets_stuck(service, "bob", sid)
    browser = Browser(service)
    await browser.sign_in()
    page = (await browser.open(f"/console/devices/{sid}")).text
    assert "breaks off streams" in page or "same rows again" in page
    assert "How it is doing" in page
    assert "20 behind" in page


async def test_the_history_of_a_device_is_a_plot_and_a_list(service: Service) -> None:
    sid = await signed_in(service, "ann")
    await lives_for(service, "ann", sid, 20)
    browser = Browser(service)
    await browser.sign_in()
    page = (await browser.open(f"/console/devices/{sid}")).text
    assert re.search(r'aria-label="Acks taken: \d+, from', page)
    assert re.search(r'aria-label="Refused acks: [1-9]', page)
    older = re.search(r'href="([^"]*before=\d+[^"]*)"', page)
    assert older is not None
    listed = re.findall(r'<th scope="row" class="num">(\d+)</th>', page)
    beyond = re.findall(r'<th scope="row" class="num">(\d+)</th>', (await browser.open(older[1].split("#")[0])).text)
    assert int(listed[-1]) == int(beyond[0]) + 1
    zoomed = re.search(r'href="([^"]*from=[^"]*)"', page)
    assert zoomed is not None
    assert (await browser.open(zoomed[1].replace("&amp;", "&").split("#")[0])).status_code == 200


async def test_the_state_at_an_instant_is_that_of_then(service: Service) -> None:
    before_s = service.clock() // SECOND_US - 5
    sid = await signed_in(service, "ann")
    await syncs(service, "ann", sid)
    then_s = service.clock() // SECOND_US
    service.clock.now_us += 3600 * SECOND_US
    await service.ledger.execute("ann", sid, EndSession("revoked"))
    browser = Browser(service)
    await browser.sign_in()
    state = f"/console/devices/{sid}/state?at="
    assert "had not begun" in (await browser.open(f"{state}{before_s}")).text
    then = (await browser.open(f"{state}{then_s}")).text
    assert "signed in" in then
    assert "AssetV2" in then
    assert "signed out" in (await browser.open(f"{state}{service.clock() // SECOND_US}")).text


async def test_bad_queries_are_told_and_break_nothing(service: Service) -> None:
    sid = await signed_in(service, "ann")
    browser = Browser(service)
    await browser.sign_in()
    at = f"/console/devices/{sid}"
    backwards = "from=2030-01-01T00:00:00Z&to=2020-01-01T00:00:00Z"
    for query in ("at=yesterday", "from=2&to=1", "before=0", "before=x", "event=nothing", backwards):
        assert (await browser.open(f"{at}?{query}")).status_code == 400, query
    last = "9999-12-31T23:59:59.999999Z"
    far = (f"from=9999-12-31T00:00:00Z&to={last}", f"from=1970-01-01T00:00:00Z&to={last}", f"from={last}&to={last}")
    for query in ("at=99999999999999999999", *far, "from=2200-01-01T00:00:00Z&to=9000-01-01T00:00:00Z"):
        assert (await browser.open(f"{at}?{query}")).status_code == 200, query
    for path, code, told in (
        (f"{at}?at=yesterday", 400, "at: "),
        ("/console/devices/nothing", 400, "64 hexadecimal digits"),
        ("/console/nothing", 404, "The console has no such page"),
    ):
        answer = await browser.open(path)
        assert (answer.status_code, told in answer.text) == (code, True), path


async def test_what_is_wrong_with_the_ledger_is_said_first(service: Service) -> None:
    browser, fine = Browser(service), "Nothing is wrong that the service knows of"
    await browser.sign_in()
    assert fine in (await browser.open("/console/ledger")).text
    whole = keys.whole(3)
    await service.ledger.store.command("DEL", whole, key=whole)
    await asyncio.sleep(REMEMBERED_S)
    page = (await browser.open("/console/ledger")).text
    assert (fine in page, "Partitions that are not whole: 1" in page) == (False, True)


def test_each_trouble_has_words_and_a_runbook() -> None:
    assert set(WORDS_OF_TROUBLES) == set(TROUBLES)
    runbooks = Path(__file__).parents[2].joinpath("ops/docs/runbooks.md").read_text(encoding="utf-8")
    for told in WORDS_OF_TROUBLES.values():
        [runbook] = re.findall(r"\(runbook (\w+)\)$", told)
        assert f"\n## {runbook}\n" in runbooks


async def test_a_damaged_device_is_shown_as_far_as_it_can_be_read(service: Service) -> None:
    await load_library(service)
    sid, store = await signed_in(service, "ann"), service.ledger.store
    await lives_for(service, "ann", sid, 6)
    browser = Browser(service)
    await browser.sign_in("audit.read", "sessions.manage")
    partition = service.ledger.partition_of("ann")
    stream, kept = keys.stream(partition), keys.session(partition, sid)
    ids = [entry[0] for entry in await store.command("XRANGE", stream, "-", "+", key=stream)]
    at = f"/console/devices/{sid}"
    paths = (at, f"{at}?whole=true", f"{at}?event=ack_refused", f"{at}/state?at=1", f"{at}/reset")
    for lost, told in ((ids[len(ids) // 2], "Events are missing here"), (ids[-1], "Events cannot be read here")):
        await store.command("XDEL", stream, lost, key=stream)
        assert [(await browser.open(path)).status_code for path in paths] == [200] * len(paths)
        assert told in (await browser.open(at)).text
    await store.command("HSET", kept, "seq", "x", key=kept)
    for path in paths:
        answer = await browser.open(path)
        assert (answer.status_code, "run syncledger verify" in answer.text) == (409, True), path
    assert "damaged" in (await browser.open("/console/devices")).text


@pytest.mark.parametrize("kept", ["session", "checkpoints"])
async def test_a_device_whose_key_something_else_wrote_over_is_shown_as_its_events_say(
    service: Service, kept: str
) -> None:
    sid, store = await signed_in(service, "ann"), service.ledger.store
    key = getattr(keys, kept)(service.ledger.partition_of("ann"), sid)
    await store.command("DEL", key, key=key)
    await store.command("SET", key, "something else", key=key)
    browser = Browser(service)
    await browser.sign_in("audit.read", "sessions.manage")
    at = f"/console/devices/{sid}"
    for path in ("/console/devices", at, f"{at}/reset"):
        answer = await browser.open(path)
        assert (answer.status_code, "iPhone · iOS" in answer.text) == (200, True), path


async def test_ones_own_devices_come_in_pages_that_lead_on_and_back(
    with_provider: tuple[Service, MemoryProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("endpoints.console.devices.SHOWN", 2)
    service, provider = with_provider
    browser = Browser(service)
    await sign_in_at(provider, browser)
    user = await user_of(service)
    for number in range(2):
        await signed_in(service, user, number)
    first = (await browser.open("/console/my-devices")).text
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    assert "First page" not in first
    last = (await browser.open(html.unescape(following[1]))).text
    assert ('rel="next"' in last, 'href="/console/my-devices">First page' in last) == (False, True)
    shown = [set(re.findall(r"/console/devices/([0-9a-f]{64})", page)) for page in (first, last)]
    assert [len(page) for page in shown] == [2, 1]
    assert shown[0].isdisjoint(shown[1])


# Doing ----------------------------------------------------------------------------------------------------------------


async def test_who_only_reads_has_no_buttons_and_may_do_nothing(service: Service) -> None:
    sid = await signed_in(service, "ann")
    browser = Browser(service)
    await browser.sign_in("audit.read")
    page = (await browser.open(f"/console/devices/{sid}")).text
    assert not re.search('Ask for a reset|sign-out<|/sign-out"', page.replace('action="/console/sign-out"', ""))
    token = form_token(page)
    for action in ("reset", "take-back", "sign-out"):
        assert (await browser.open(f"/console/devices/{sid}/{action}")).status_code == 403
        assert (await browser.post(f"/console/devices/{sid}/{action}", {"form": token})).status_code == 403
    assert [tag for tag, _ in await events_of(service, "ann", sid)] == ["session_created"]


async def test_what_is_done_is_asked_first_and_on_record_with_who_did_it(service: Service) -> None:
    sid = await signed_in(service, "ann")
    await service.ledger.execute("ann", sid, OfferStream(service.clock(), mask_of((*TYPES, COMPLETE))))
    await syncs(service, "ann", sid)
    browser = Browser(service)
    await browser.sign_in("audit.read", "sessions.manage")
    at = f"/console/devices/{sid}"

    async def does(action: str, **fields: object) -> tuple[str, dict[str, object]]:
        assert "key on-call" in (await browser.open(f"{at}/{action}")).text, "it says who is put on record"
        answer = await browser.send(f"{at}/{action}", fields)
        assert answer.status_code == 303, answer.text
        assert (await browser.follow(answer)).status_code == 200
        return (await events_of(service, "ann", sid))[0]

    tag, data = await does("reset", what="all")
    assert (tag, data["on"], data["by"]) == ("sync_reset_requested", True, "key on-call")
    tag, data = await does("take-back")
    assert (tag, data["on"], data["by"]) == ("sync_reset_requested", False, "key on-call")
    tag, data = await does("reset", what="types", type=["AssetV2"])
    assert (tag, data["types"], data["cause"], data["by"]) == (
        "checkpoints_cleared", ("AssetV2",), "asked", "key on-call",
    )  # fmt: skip
    tag, data = await does("sign-out")
    assert (tag, data["reason"], data["by"]) == ("session_ended", "revoked", "key on-call")
    assert (await browser.open(f"{at}/reset")).status_code == 400, "it has ended"


async def test_types_are_those_that_there_are(service: Service) -> None:
    sid = await signed_in(service, "ann")
    browser = Browser(service)
    await browser.sign_in("audit.read", "sessions.manage")
    for types in ([], ["Nothing"], ["SyncResetV1"]):
        fields = {"what": "types", "type": types}
        assert (await browser.send(f"/console/devices/{sid}/reset", fields)).status_code == 400
    both = await browser.send(f"/console/devices/{sid}/reset", {"what": "all", "type": ["AssetV2"]})
    assert both.status_code == 400, "whoever chose types does not mean all"
    assert [tag for tag, _ in await events_of(service, "ann", sid)] == ["session_created"]


# Attacks --------------------------------------------------------------------------------------------------------------


FOREIGN: tuple[dict[str, str], ...] = (
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)


@pytest.mark.parametrize("action", ["reset", "take-back", "sign-out", ""])
async def test_no_button_is_pressed_from_elsewhere(service: Service, action: str) -> None:
    sid = await signed_in(service, "ann")
    path = f"/console/devices/{sid}/{action}" if action else "/console/sign-out"
    browser, other = Browser(service), Browser(service)
    await browser.sign_in("audit.read", "sessions.manage")
    await other.sign_in("audit.read", "sessions.manage")
    token, others = [form_token((await one.open("/console/tail")).text) for one in (browser, other)]
    for fields in ({}, {"form": ""}, {"form": others}, {"form": token[:-1]}):
        assert (await browser.post(path, fields)).status_code == 403, fields
    for headers in FOREIGN:
        assert (await browser.post(path, {"form": token}, **headers)).status_code == 403, headers
    assert [tag for tag, _ in await events_of(service, "ann", sid)] == ["session_created"]
    assert (await browser.open("/console/tail")).status_code == 200
    assert (await browser.post(path, {"form": token}, **{"sec-fetch-site": "same-origin"})).status_code == 303


async def test_nobody_is_signed_in_from_elsewhere(service: Service) -> None:
    key, _ = await service.api_keys.create(["audit.read"], name="", now_us=1)
    browser = Browser(service)
    assert (await browser.post("/console/sign-in", {"key": key})).status_code == 403
    token = form_token((await browser.open("/console/sign-in")).text)
    foreign = await browser.post("/console/sign-in", {"key": key, "form": token}, origin="https://evil.example")
    assert foreign.status_code == 403
    assert "ledger-console" not in browser.cookies


HOSTILE = '<img src=x onerror="alert(1)"></bdi><script>alert(2)</script>\u202e{{7*7}}'


async def test_what_devices_and_users_call_themselves_is_only_text(service: Service) -> None:
    user = "<b onclick=alert(1)>&'\"{{7*7}}"
    issued = await service.sign_in(user, "lib", device_type=HOSTILE[:64], device_os="'\"><svg/onload=alert(3)>")
    await gets_stuck(service, user, issued.sid)
    browser = Browser(service)
    await browser.sign_in("audit.read", "sessions.manage")
    at = f"/console/devices/{issued.sid}"
    lists = ("/console/devices", "/console/devices?q=%3Cscript%3Ealert(1)%3C/script%3E")
    for path in (*lists, at, f"{at}/reset", f"{at}/sign-out", f"{at}/state", "/console/tail?user=%22%3E%3Cscript%3E"):
        page = (await browser.open(path)).text
        assert not re.search(r"<(img|script>|b onclick|svg/)", page), path
        assert "\u202e" not in page, "what turns the reading order around"
        assert "49" not in re.sub(r"[0-9a-f]{12,}|\d{2,}:\d\d|\d{3,}", "", page) or "{{7*7}}" in page


INLINE = re.compile(r"""<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style|(src|href|action)=["'](https?:)?//""")


async def test_every_answer_says_what_browsers_must_not_do(service: Service) -> None:
    sid = await signed_in(service, "ann")
    browser = Browser(service)
    answers = [await browser.open("/console/sign-in"), await browser.open("/console/devices")]
    await browser.sign_in("audit.read", "sessions.manage")
    at = f"/console/devices/{sid}"
    rest = ("", "/devices", "/ledger", "/tail", "/nothing", "/link")
    paths = (*(f"/console{path}" for path in rest), at, f"{at}/reset", f"{at}/state")
    answers += [await browser.open(path) for path in paths]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(
            r"""<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style|(src|href|action)=["'](https?:)?//""", answer.text
        )


async def test_files_are_served_with_their_kind(service: Service) -> None:
    browser = Browser(service)
    page = (await browser.open("/console/sign-in")).text
    for name, kind in (("console.css", "text/css"), ("console.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        found = re.search(rf'"(/console/{name}\?v=[0-9a-f]+)"', page)
        assert found is not None
        answer = await browser.open(found[1])
        assert answer.headers["content-type"].startswith(kind)
        assert "immutable" in answer.headers["cache-control"]


async def test_a_service_without_its_store_says_so_on_a_page() -> None:
    app = build_waiting(lambda: StoreUnavailable("no server answers", maybe_done=False))
    async with falcon.testing.ASGIConductor(app) as client:
        page = await client.simulate_get("/console/devices")
        assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
        assert '<meta http-equiv="refresh" content="5">' in page.text
        style = re.search(r'href="(/console/console.css)', page.text)
        assert style is not None
        assert (await client.simulate_get(style[1])).status_code == 200
        assert (await client.simulate_get("/api/server/ping")).headers["content-type"] == "application/json"
