"""Sessions from the command line: made, listed, ended."""

from __future__ import annotations

import json
import re

import pytest

from ledger import keys
from ledger.acks import Ack
from ledger.admission import Caller
from ledger.commands import CreateSession, EndSession, OfferStream, RecordAcks, RequestReset
from ledger.entity_types import mask_of
from ledger.errors import SessionEnded
from ledger.personal import plain
from ledger.positions import Position
from ops.commands.tables import WIDEST, columns, minute
from ops.opening.ledger import Opened
from projections.accounts.tokens import read_token
from tests.support.ledger.ledgers import sid_of
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]

PHONE = "immich-android/3.2.0"
FIREFOX = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:121.0) Gecko/20100101 Firefox/121.0"


def sign_in(commands: Commands, user: str = "ann", *options: str) -> Caller:
    """Sign a device in by the command."""
    caller = read_token(commands("session", "create", "--user", user, "--library", "lib", *options).strip())
    assert caller is not None
    return caller


def living(commands: Commands, user: str = "ann") -> list[str]:
    """List the ids of a user's living sessions."""
    return [listed["id"] for listed in commands.json("session", "list", "--user", user)]


def test_sessions_are_listed_with_what_is_known_of_them(commands: Commands) -> None:
    phone = sign_in(commands, "ann", "--user-agent", PHONE)
    browser = sign_in(commands, "ann", "--user-agent", FIREFOX, "--ttl", "30d")
    sign_in(commands, "bob")
    child = sid_of("child")

    async def go_on(found: Opened) -> None:
        await found.ledger.execute("ann", phone.sid, RequestReset(on=True, by=plain("ann")))
        await found.ledger.execute(
            "ann", child, CreateSession("ann", "lib", parent=phone.sid, device_type=plain("x" * 60))
        )

    commands.inside(go_on)
    by_id = {listed.pop("id"): listed for listed in commands.json("session", "list", "--user", "ann")}
    assert by_id.keys() == {phone.sid, browser.sid, child}
    for listed in by_id.values():
        assert listed.pop("createdAt") <= listed.pop("lastSeenAt")
        assert listed.pop("library") == "lib"
    expires_at = by_id[browser.sid].pop("expiresAt")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", expires_at)
    assert by_id == {
        phone.sid: {
            "deviceType": "", "deviceOS": "Android", "appVersion": "3.2.0", "parent": None, "expiresAt": None,
            "authenticatedBy": "command", "isPendingSyncReset": True,
        },
        browser.sid: {
            "deviceType": "Firefox", "deviceOS": "macOS", "appVersion": None, "parent": None,
            "authenticatedBy": "command", "isPendingSyncReset": False,
        },
        child: {
            "deviceType": "x" * 60, "deviceOS": "", "appVersion": None, "parent": phone.sid, "expiresAt": None,
            "authenticatedBy": "", "isPendingSyncReset": False,
        },
    }  # fmt: skip
    shown = commands("session", "list", "--user", "ann")
    assert max(map(len, shown.splitlines())) <= 80 + WIDEST
    for said in (phone.sid, browser.sid, f"ends with {phone.sid[:12]}", "will start over", expires_at[:10], "Firefox"):
        assert said in shown


def test_the_session_used_last_comes_first(commands: Commands) -> None:
    sids = [sign_in(commands).sid for _ in range(3)]
    assert living(commands) == sids[::-1]

    async def use(found: Opened) -> None:
        partition = found.ledger.partition_of("ann")
        later_ms = found.ledger.clock() // 1000 + 7_200_000
        name = keys.activity(partition)
        await found.store.command("ZADD", name, later_ms, sids[1], key=name)

    commands.inside(use)
    assert living(commands) == [sids[1], sids[2], sids[0]]


def test_a_session_is_ended_with_what_belongs_to_it(commands: Commands) -> None:
    first, second, other = sign_in(commands), sign_in(commands), sign_in(commands, "bob")

    async def add_child(found: Opened) -> None:
        await found.ledger.execute("ann", sid_of("child"), CreateSession("ann", "lib", parent=first.sid))

    commands.inside(add_child)
    commands("session", "end", first.sid)
    assert living(commands) == [second.sid]
    commands("session", "end", second.sid, "--user", "ann")
    assert living(commands) == []
    assert living(commands, "bob") == [other.sid]
    events = [line.split()[2:] for line in commands("history", first.sid).splitlines()]
    assert events[0][0] == "session_ended"
    assert '"reason":"revoked","by":"command"' in events[0][1]
    assert commands.json("verify")["different"] == 0


def test_a_device_is_asked_to_start_over_and_that_is_taken_back(commands: Commands) -> None:
    phone = sign_in(commands)

    def pending() -> bool:
        [listed] = commands.json("session", "list", "--user", "ann")
        return bool(listed["isPendingSyncReset"])

    commands("session", "reset", phone.sid[:8])
    assert pending()
    commands("session", "reset", phone.sid, "--user", "ann", "--take-back")
    assert not pending()
    newest = [json.loads(line) for line in commands("history", phone.sid, "--json", "--limit", "2").splitlines()]
    assert [(one["event"], one["data"]["on"], one["data"]["by"]) for one in newest] == [
        ("sync_reset_requested", False, "command"),
        ("sync_reset_requested", True, "command"),
    ]


def test_only_some_types_are_sent_again(commands: Commands) -> None:
    phone, at_us = sign_in(commands), 1_700_000_000_000_000

    async def syncs(found: Opened) -> None:
        at = Position(at_us, "a")
        await found.ledger.execute("ann", phone.sid, OfferStream(at_us + 1, mask_of(("AssetV2", "AlbumV2"))))
        await found.ledger.execute("ann", phone.sid, RecordAcks((Ack("AssetV2", at), Ack("AlbumV2", at))))

    commands.inside(syncs)
    commands("session", "reset", phone.sid, "--type", "AlbumV2")
    state = commands.json("state", phone.sid)
    assert (state["pendingReset"], list(state["checkpoints"])) == (False, ["AssetV2"])


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--type", "AssetV2", "--take-back"), 2, "--take-back"),
        (("--type", "Asset"), 2, "Invalid value for '--type'"),
        (("--user", "bob"), 1, "No session"),
    ],
)
def test_a_reset_that_does_not_fit_is_refused(
    commands: Commands, options: tuple[str, ...], code: int, told: str
) -> None:
    phone = sign_in(commands)
    done = commands.run("session", "reset", phone.sid, *options)
    assert (done.code, told in done.err) == (code, True)
    commands("session", "end", phone.sid)
    done = commands.run("session", "reset", phone.sid)
    assert (done.code, "must sign in again" in done.err) == (1, True)


def test_all_sessions_of_a_user_are_ended(commands: Commands) -> None:
    for _ in range(3):
        sign_in(commands)
    kept = sign_in(commands, "bob")
    assert commands("session", "end", "--user", "ann", "--all") == "3 sessions of ann ended\n"
    assert commands("session", "end", "--user", "ann", "--all") == "0 sessions of ann ended\n"
    done = commands.run("session", "end", "--user", "amn", "--all")
    assert (done.code, "amn has no session here, living or ended" in done.err) == (1, True)
    assert living(commands) == []
    assert living(commands, "bob") == [kept.sid]


def test_what_cannot_be_ended_is_told(commands: Commands) -> None:
    ended, bob = sign_in(commands), sign_in(commands, "bob")
    commands("session", "end", ended.sid)
    for args, code, told in (
        ((ended.sid,), 1, "has ended before"),
        ((sid_of("unknown"),), 1, "No session"),
        ((bob.sid, "--user", "ann"), 1, "No session"),
        (("ABC",), 2, "64 hexadecimal digits"),
        ((), 2, "give either"),
        (("--all",), 2, "give either"),
        ((bob.sid, "--user", "bob", "--all"), 2, "give either"),
        (("--user", "a b", "--all"), 2, "spaces"),
    ):
        done = commands.run("session", "end", *args)
        assert (done.code, told in done.err, done.out) == (code, True, ""), (args, done)
    assert living(commands, "bob") == [bob.sid]


def test_a_user_of_another_ones_partition_cannot_be_named_for_a_session(commands: Commands) -> None:
    bob = sign_in(commands, "bob")
    partition = keys.partition_of("bob", 8)
    neighbour = next(name for name in map(str, range(1000)) if keys.partition_of(name, 8) == partition)
    assert commands.run("session", "end", bob.sid, "--user", neighbour).code == 1
    assert living(commands, "bob") == [bob.sid]


def test_what_a_device_calls_itself_does_not_steer_the_terminal(commands: Commands) -> None:
    sid, called = sid_of("phone"), "\x1b[2J\x9b1m\r\n\u202eSafari"

    async def sign_in(found: Opened) -> None:
        await found.ledger.execute(
            "ann", sid, CreateSession("ann", "lib", device_type=plain(called), device_os=plain("Ü 11"))
        )

    commands.inside(sign_in)
    shown = [commands("session", "list", "--user", "ann"), commands("state", sid), commands("explain", sid)]
    assert all(line.isprintable() for text in shown for line in text.split("\n"))
    assert "\\x1b[2J\\x9b1m\\r\\n\\u202eSafari Ü 11" in shown[1]
    assert commands.json("session", "list", "--user", "ann")[0]["deviceType"] == called


def test_a_session_that_is_over_at_once_is_not_made(commands: Commands) -> None:
    for ttl in ("0s", "999ms"):
        done = commands.run("session", "create", "--user", "ann", "--library", "lib", "--ttl", ttl)
        assert (done.code, done.out) == (2, "")
        assert "--ttl" in done.err
        assert "shorter than 1s" in done.err
    assert commands("session", "create", "--user", "ann", "--library", "lib", "--ttl", "1s")


def test_nobody_has_no_sessions(commands: Commands) -> None:
    commands("store", "begin")
    assert commands.json("session", "list", "--user", "nobody") == []
    done = commands.run("session", "list", "--user", "nobody")
    assert (done.code, done.out, "no session" in done.err) == (0, "", True)


def test_an_ended_session_admits_nobody(commands: Commands) -> None:
    caller = sign_in(commands)
    commands("session", "end", caller.sid)

    async def admit(found: Opened) -> None:
        with pytest.raises(SessionEnded):
            await found.ledger.admit(caller)
        with pytest.raises(SessionEnded):
            await found.ledger.execute("ann", caller.sid, EndSession("revoked"))

    commands.inside(admit)


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    rows = [("a", "bb", "c"), ("aaa", "", "x" * 30)]
    assert list(columns(rows)) == ["a    bb  c", f"aaa      {'x' * (WIDEST - 1)}…"]
    assert list(columns(rows, widest=100))[1] == f"aaa      {'x' * 30}"
    assert minute(1_700_000_000_000_000) == "2023-11-14 22:13"


def test_a_damaged_session_is_named_beside_the_others(commands: Commands) -> None:
    """What its events tell is gone too: else it would be mended on the way."""
    sids = [sign_in(commands).sid for _ in range(2)]

    async def damage(found: Opened) -> None:
        partition = found.ledger.partition_of("ann")
        name = keys.session(partition, sids[0])
        await found.store.command("DEL", keys.stream(partition), key=keys.stream(partition))
        await found.store.command("HDEL", name, "at_us", key=name)

    commands.inside(damage)
    listed = commands.run("session", "list", "--user", "ann")
    assert listed.code == 1
    assert sids[1] in listed.out
    assert f"rebuild --session {sids[0]}" in listed.err
    as_json = json.loads(commands.run("session", "list", "--user", "ann", "--json").out)
    assert [(one["id"], "damaged" in one) for one in as_json] == [(sids[1], False), (sids[0], True)]
    expired = commands.run("expire", idle="1s")
    assert expired.code == 1
    assert f"session {sids[0]} was passed over" in expired.err
    ended = commands.run("session", "end", "--user", "ann", "--all")
    assert ended.code == 1
    assert sids[0] in ended.err
    assert [one["id"] for one in json.loads(commands.run("session", "list", "--user", "ann", "--json").out)] == [
        sids[0]
    ]
