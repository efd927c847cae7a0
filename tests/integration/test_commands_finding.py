"""From a user to the phone on the command line: found, listed and explained, also after it ended."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click import BadParameter, Context

from ledger.admission import Caller
from ledger.commands import CreateSession
from ledger.positions import iso_from_us
from ledger.store.interface import open_store
from ops.commands.devices.following import follow
from ops.commands.devices.history import history
from ops.commands.instants import instant, instant_until
from ops.opening.ledger import Opened
from projections.accounts.tokens import read_token
from projections.history import session_history
from projections.history.event_pages import EventPages
from projections.history.session_history import HistoryEvent, Wanted
from tests.support.ledger.ledgers import sid_of
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]

PHONE = "immich-android/3.2.0"
DAY_US = 86_400_000_000


def sign_in(commands: Commands, user: str = "ann", *options: str) -> Caller:
    caller = read_token(commands("session", "create", "--user", user, "--library", "lib", *options).strip())
    assert caller is not None
    return caller


@pytest.fixture
def phones(commands: Commands) -> tuple[Caller, Caller, Caller]:
    """A phone of ann that lives, one that was signed out, and one of bob."""
    living, over, bobs = sign_in(commands, "ann", "--user-agent", PHONE), sign_in(commands), sign_in(commands, "bob")
    commands("session", "end", over.sid[:16])
    return living, over, bobs


def test_a_phone_is_found_by_user_address_and_the_start_of_its_id(
    commands: Commands, phones: tuple[Caller, Caller, Caller]
) -> None:
    living, over, bobs = phones

    async def meet(found: Opened) -> None:
        await found.identities.sign_in("https://id.example.test", "s", email="ann@example.test", user="ann", now_us=1)

    commands.inside(meet)
    for what in ("ann", "Ann@Example.test"):
        found = commands.json("session", "find", what)
        assert [(one["id"], one["lives"]) for one in found] == [(living.sid, True), (over.sid, False)]
    assert (found[0]["deviceOS"], found[1]["endReason"]) == ("Android", "revoked")
    assert [one["id"] for one in commands.json("session", "find", over.sid[:8])] == [over.sid]
    shown = commands("session", "find", bobs.sid[:8])
    assert bobs.sid in shown
    assert "lives" in shown
    assert max(map(len, commands("session", "find", "ann").splitlines())) <= 100
    for nothing in ("carl", "feed" * 16, "nobody@example.test"):
        done = commands.run("session", "find", nothing)
        assert (done.code, done.out, "Nothing found" in done.err) == (1, "", True)


def test_an_address_whose_user_has_no_session_finds_nothing_and_says_whose_it_is(commands: Commands) -> None:
    async def meet(found: Opened) -> None:
        await found.identities.sign_in("https://id.example.test", "s", email="ann@example.test", user="ann-7", now_us=1)

    commands.inside(meet)
    done = commands.run("session", "find", "ann@example.test")
    assert (done.code, done.out) == (1, "")
    assert "ann-7, has no session any more" in done.err


def test_sessions_that_ended_are_listed_with_all(commands: Commands, phones: tuple[Caller, Caller, Caller]) -> None:
    living, over, _ = phones
    assert [one["id"] for one in commands.json("session", "list", "--user", "ann")] == [living.sid]
    assert [one["id"] for one in commands.json("session", "list", "--user", "ann", "--all")] == [living.sid, over.sid]
    assert "revoked" in commands("session", "list", "--user", "ann", "--all")
    done = commands.run("session", "list", "--user", "ann", "--all", "--limit", "1")
    assert (over.sid in done.out, done.err) == (False, "1 more: --limit shows them\n")
    assert "living or ended" in commands.run("session", "list", "--user", "amn", "--all").err


def test_users_are_listed(commands: Commands, phones: tuple[Caller, Caller, Caller]) -> None:
    assert sorted(commands("user", "list").splitlines()) == [
        "ann  1 living session, 1 ended", "bob  1 living session, 0 ended",
    ]  # fmt: skip
    lines = commands("user", "list", "--json").splitlines()
    assert {"user": "ann", "living": 1, "ended": 1} in map(json.loads, lines)
    assert len(commands("user", "list", "--limit", "1").splitlines()) == 1


def test_the_start_of_an_id_is_taken_where_an_id_is(commands: Commands, phones: tuple[Caller, Caller, Caller]) -> None:
    living, over, _ = phones
    for sid in (living.sid, over.sid):
        assert commands.json("state", sid[:10])["sessionId"] == sid
        assert commands.json("explain", sid[:10])["sessionId"] == sid
        assert json.loads(commands("history", sid[:10], "--json").splitlines()[0])["session"] == sid
    commands("rebuild", "--session", living.sid[:10])
    twin = living.sid[:10] + sid_of("twin")[10:]

    async def have_a_twin(found: Opened) -> None:
        await found.ledger.execute("bob", twin, CreateSession("bob", "lib"))

    commands.inside(have_a_twin)
    for args in (("explain",), ("state",), ("history",), ("session", "end"), ("rebuild", "--session")):
        done = commands.run(*args, living.sid[:10])
        assert (done.code, living.sid in done.err, twin in done.err) == (2, True, True), args
    assert commands.json("explain", living.sid[:10], "--user", "ann")["sessionId"] == living.sid


def test_all_devices_of_a_user_are_explained(commands: Commands, phones: tuple[Caller, Caller, Caller]) -> None:
    living = phones[0]
    assert commands("explain", "--user", "ann").splitlines()[0].split()[1] == living.sid, "the only one: all of it"
    other = sign_in(commands)
    shown = commands("explain", "--user", "ann")
    assert living.sid[:12] in shown
    assert other.sid[:12] in shown
    assert shown.count("never_streamed") == 2
    assert len(commands("explain", "--user", "ann", "--json").splitlines()) == 2
    assert "lives" in commands.run("explain", "--user", "carl").err
    assert commands.run("explain").code == 2


def test_that_not_all_devices_of_a_user_are_explained_is_told(
    commands: Commands, phones: tuple[Caller, Caller, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(commands)
    sign_in(commands)
    assert "Left out" not in commands("explain", "--user", "ann")
    monkeypatch.setattr("ops.commands.devices.explain.SHOWN", 2)
    shown = commands("explain", "--user", "ann")
    assert shown.splitlines()[-1].startswith("Left out: 1 session ")
    assert len(commands("explain", "--user", "ann", "--json").splitlines()) == 2


def test_a_library_that_is_mistyped_is_told(commands: Commands) -> None:
    done = commands.run("session", "create", "--user", "ann", "--library", "photos")
    assert (done.code, done.err) == (0, ""), "the first one is none of others"
    done = commands.run("session", "create", "--user", "ann", "--library", "fotos")
    assert (done.code, len(done.out.split())) == (0, 1)
    assert "nothing was ever written to library fotos; there are photos" in done.err


def test_a_limit_bounds_a_history(commands: Commands, phones: tuple[Caller, Caller, Caller]) -> None:
    over = phones[1]
    whole = commands("history", over.sid).splitlines()
    assert len(whole) == 2
    assert commands("history", over.sid, "--limit", "1").splitlines() == whole[:1]
    assert commands("history", over.sid, "--limit", "1", "--forward").splitlines() == whole[1:]
    assert len(commands("history", "--user", "ann", "--limit", "2", "--since", "1h").splitlines()) == 2
    assert len(commands("history", over.sid, "--since", f"{datetime.now(UTC):%Y-%m-%d}").splitlines()) == 2
    assert commands.run("history", over.sid, "--follow", "--forward").code == 2


def test_times_are_dates_instants_or_how_long_ago() -> None:
    context, option = Context(history), history.params[1]
    assert iso_from_us(instant(context, option, "2025-01-20") or 0) == "2025-01-20T00:00:00.000000Z"
    assert iso_from_us(instant_until(context, option, "2025-01-20") or 0) == "2025-01-20T23:59:59.999999Z"
    assert iso_from_us(instant_until(context, option, "2025-01-20T10:00:00Z") or 0) == "2025-01-20T10:00:00.000000Z"
    hour, day = instant(context, option, "1h") or 0, instant(context, option, "1d") or 0
    assert abs(hour - day - 23 * DAY_US // 24) < DAY_US // 24
    for wrong in ("yesterday", "2025-13-01", "2025-01-20T10:00:00", "1 week"):
        with pytest.raises(BadParameter, match="2025-01-20"):
            instant(context, option, wrong)


async def test_following_shows_what_comes_once(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ledger.commands import RequestReset
    from ledger.log.service import Ledger
    from ledger.personal import plain
    from tests.support.ledger.ledgers import Clock

    monkeypatch.setattr("ops.commands.devices.following.LOOK_S", 0.01)
    store = await open_store(valkey_url)
    clock, sid, shown = Clock(), sid_of("phone"), list[HistoryEvent]()
    ledger = Ledger(store, 1, clock)

    async def add(count: int) -> None:
        for number in range(count):
            clock.now_us += 1_000_000
            await ledger.execute("ann", sid, RequestReset(number % 2 == 0, plain("ann")))

    await store.command("SET", b"{p0}:whole", "1", key=b"{p0}:whole")
    await ledger.execute("ann", sid, CreateSession("ann", "lib"))
    await add(4)
    past = EventPages(store)
    changed = asyncio.Event()

    def show(event: HistoryEvent) -> None:
        shown.append(event)
        changed.set()

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(shown) < count:
                changed.clear()
                await changed.wait()

    following = asyncio.create_task(
        follow(
            lambda wanted, forward, size: session_history.pages(past, 0, sid, wanted, size=size, forward=forward),
            Wanted(),
            2,
            show,
        )
    )

    await until(2)
    await add(20)
    await until(22)
    await asyncio.sleep(0.05)
    following.cancel()
    await asyncio.wait([following])
    await store.close()
    assert [event.seq for event in shown] == list(range(4, 26))


def test_whoever_has_read_enough_is_told_nothing(commands: Commands, phones: tuple[Caller, Caller, Caller]) -> None:
    """As `syncledger history … | head -1` on a terminal: nothing of progress or of the pipe's end is on it."""
    leader, follower = pty.openpty()
    environ = {**os.environ, **commands.environ, "TERM": "xterm"}
    command = [str(Path(sys.executable).parent / "syncledger"), "verify"]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(command, env=environ, stdout=writing, stderr=follower)
    os.close(writing)
    os.close(follower)
    code = process.wait(60)
    os.set_blocking(leader, False)
    try:
        said = os.read(leader, 65536)
    except OSError:  # nothing was written to it
        said = b""
    os.close(leader)
    assert (code, said) == (141, b"")


def test_a_misspelt_setting_is_told_by_every_command(commands: Commands) -> None:
    for args in (("session", "list", "--user", "ann"), ("verify",), ("migrate", "--from", "x", "--to", "y")):
        done = commands.run(*args, tombstone="1d")
        assert "warning: no such setting, ignored: LEDGER_TOMBSTONE; is LEDGER_TOMBSTONES meant?" in done.err, args
    done = commands.run("session", "list", "--usr", "ann")
    assert done.err.splitlines()[0].startswith("error: ")
    assert done.err.splitlines()[-1] == "see: syncledger session list --help"
