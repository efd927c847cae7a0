"""Users from the command line: shown, and erased with their sessions."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from ledger.commands import DescribeDevice
from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log.reader import read_partition
from ledger.log.service import Ledger
from ledger.personal import has_sealed, plain
from ops.opening.ledger import Opened, now_us, open_credentials
from projections.accounts.claim_conflicts import ClaimConflicts
from tests.support.processes.commands import Commands, commands
from tests.support.stores.dump import bytes_of, values_of

__all__ = ["commands"]

ISSUER = "https://id.example.org"
ZSTD = b"\x28\xb5\x2f\xfd"


def sign_in(commands: Commands, subject: str = "1", sessions: int = 2) -> str:
    """Sign somebody in with an identity and some devices; returns the user."""

    async def work(found: Opened) -> str:
        email = f"Ann{subject}@Example.org"
        profile = await found.identities.sign_in(ISSUER, subject, email=email, name="Ann Müller", now_us=now_us())
        return profile.user

    user = commands.inside(work)
    for _ in range(sessions):
        commands("session", "create", "--user", user, "--library", user)
    return user


def test_a_user_is_shown(commands: Commands) -> None:
    user = sign_in(commands)
    assert commands.json("user", "show", user) == {
        "user": user,
        "sessions": 2,
        "name": "Ann Müller",
        "email": "ann1@example.org",
        "library": user,
        "admin": False,
    }
    shown = commands("user", "show", user)
    for said in (user, "Ann Müller", "ann1@example.org", "2"):
        assert said in shown


def test_a_user_without_identity_has_sessions_only(commands: Commands) -> None:
    commands("session", "create", "--user", "bob", "--library", "lib")
    assert commands.json("user", "show", "bob") == {"user": "bob", "sessions": 1}
    done = commands.run("user", "show", "nobody")
    assert (done.code, "nobody" in done.err) == (1, True)


def test_who_was_bound_to_a_wrong_user_is_named_and_let_go(commands: Commands) -> None:
    wrong = sign_in(commands)

    async def again(found: Opened) -> str:
        profile = await found.identities.sign_in(ISSUER, "1", email="Ann1@Example.org", user="ann", now_us=now_us())
        await ClaimConflicts(found.store).note(profile.user, "ann")
        return profile.user

    assert commands.inside(again) == wrong, "the claim came late"
    assert commands.json("user", "conflicts") == [{"user": wrong, "claim": "ann"}]
    assert commands("user", "conflicts").split() == ["user", "whom", "the", "claim", "names", wrong, "ann"]
    done = commands.run("user", "unlink", wrong, input="n\n")
    assert (done.code, "nothing was changed" in done.err) == (1, True)
    assert commands("user", "unlink", wrong, "--yes") == "2 sessions ended, identities let go\n"
    assert commands.json("user", "conflicts") == []
    assert commands.json("session", "list", "--user", wrong) == []
    assert commands.inside(again) == "ann"
    assert commands.json("user", "show", "ann")["email"] == "ann1@example.org"
    assert commands.json("user", "conflicts") == []
    assert commands.run("user", "unlink", wrong, "--yes").code == 1
    assert commands("verify")


def test_erasing_a_user_ends_all_sessions_and_leaves_nothing_personal(commands: Commands) -> None:
    user, other = sign_in(commands), sign_in(commands, "2")
    sid = commands.json("session", "list", "--user", user)[0]["id"]

    async def hold(found: Opened) -> None:
        assert await open_credentials(found, commands.settings).hold(user, sid, "an ID token")

    async def name(found: Opened) -> str:
        row = await found.catalog.entity(user, "UserV1", user)
        assert row is not None
        return str(json.loads(row)["name"])

    async def horizon(found: Opened) -> int:
        return await found.catalog.horizon(user)

    commands.inside(hold)
    assert commands.inside(name) == "Ann Müller"
    before = commands.inside(horizon)
    told = commands("user", "erase", user, "--yes")
    assert told == "2 sessions ended, identity erased, what devices said of themselves erased\n"

    async def look(found: Opened) -> None:
        assert await found.identities.profile(user) is None
        assert await found.identities.user_of(ISSUER, "1") is None
        assert await found.ledger.devices(user) == []
        assert await open_credentials(found, commands.settings).read(user, sid) is None
        pages = read_partition(found.store, found.ledger.partition_of(user))
        ends = [
            entry.recorded.event
            async for page in pages
            for entry in page
            if isinstance(entry.recorded.event, SessionEndedEvent)
        ]
        assert [end.reason for end in ends] == ["erased"] * 2
        assert all(has_sealed(end) for end in ends)
        assert await found.identities.profile(other) is not None
        assert len(await found.ledger.devices(other)) == 2
        left = {name: bytes_of(value) for name, value in (await values_of(found.store)).items()}
        for secret in (b"ann1@", b"Ann1@", b"an ID token"):
            assert [name for name, value in left.items() if secret in value] == []

    commands.inside(look)
    assert commands.inside(name) == user
    assert commands.inside(horizon) > before  # other devices of the library get the row again
    assert commands.json("verify")["different"] == 0
    done = commands.run("user", "erase", user, "--yes")
    assert (done.code, "nobody of this id" in done.err) == (1, True)


def test_a_user_who_was_erased_is_in_no_copy_that_was_made_before(commands: Commands, tmp_path: Path) -> None:
    commands.environ["LEDGER_ARCHIVE"] = (tmp_path / "archive").as_uri()
    user, other = sign_in(commands), sign_in(commands, "2")
    for who in (user, other):
        commands("session", "create", "--user", who, "--library", who, "--user-agent", f"immich-android/7.7.{who[:4]}")
    said = f"7.7.{user[:4]}"
    commands("archive", "--hot", "0s")
    commands("session", "create", "--user", user, "--library", user, "--user-agent", f"immich-ios/{said}")
    commands("backup")
    sessions = [session["id"] for session in commands.json("session", "list", "--user", user)]
    assert said in commands("session", "list", "--user", user)
    assert said in commands("history", "--user", user)
    assert said in commands("state", sessions[0])
    copies = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in copies if said.encode() in unpacked(file)], "sealed wherever it is stored"

    commands("user", "erase", user, "--yes")
    for asked in (("history", "--user", user), *(("state", session) for session in sessions)):
        assert said not in commands(*asked)
    assert commands.json("verify")["different"] == 0
    dump = commands.inside(lambda found: values_of(found.store))
    assert not [name for name, value in dump.items() if said.encode() in bytes_of(value)]

    commands.inside(lambda found: found.store.each_primary("FLUSHALL"))
    told = commands("restore", "latest", "--yes")
    assert "erased since, and again here: 1 user in it" in told
    assert "verified: all agree" in told
    assert commands.json("user", "show", other)["sessions"] == 3
    assert f"7.7.{other[:4]}" in commands("session", "list", "--user", other)
    assert commands.run("user", "show", user).code == 1
    for asked in (("history", "--user", user), *(("state", session) for session in sessions)):
        assert said not in commands(*asked)
    assert sign_in(commands) == user, "who comes back begins anew"
    time.sleep(1.1)  # backups are named by the second
    commands("backup")
    commands.inside(lambda found: found.store.each_primary("FLUSHALL"))
    assert "erased again" not in commands("restore", "latest", "--yes")
    assert commands.json("user", "show", user)["sessions"] == 2
    assert "still hold" not in commands("user", "erase", other, "--yes"), "what a restore notes is nobody's"


def test_events_from_before_texts_were_sealed_are_counted(commands: Commands) -> None:
    user = sign_in(commands)

    async def live_unsealed(found: Opened) -> None:
        ledger = Ledger(found.store, found.ledger.partitions, now_us)
        (state, _) = await ledger.devices(user)
        await ledger.execute(user, state.sid, DescribeDevice(plain("iPhone"), plain("iOS"), plain("3.2.0")))

    commands.inside(live_unsealed)
    assert "iPhone" in commands("session", "list", "--user", user)
    told = commands("user", "erase", user, "--yes")
    assert "1 event from before texts were sealed still holds what devices said" in told


def test_where_the_keys_are_is_told_and_another_place_is_refused(commands: Commands, tmp_path: Path) -> None:
    user = sign_in(commands)
    commands("session", "create", "--user", user, "--library", user, "--user-agent", "immich-ios/3.2.0")
    place = (commands.data_dir / "user-keys").absolute().as_uri()
    assert commands.json("user", "keys") == {"place": place, "keys": 1}
    elsewhere = {"user_keys": (tmp_path / "elsewhere").as_uri()}
    done = commands.run("session", "list", "--user", user, **elsewhere)
    assert (done.code, "LEDGER_USER_KEYS" in done.err, "--adopt" in done.err) == (1, True, True)
    assert commands("user", "keys", "--adopt", **elsewhere).startswith("0 keys in ")
    assert "3.2.0" not in commands("session", "list", "--user", user, **elsewhere)


def unpacked(file: Path) -> bytes:
    """Read a file, and what lies compressed in it."""
    raw = file.read_bytes()
    found, at = [raw], raw.find(ZSTD)
    while at >= 0:
        with suppress(zstandard.ZstdError):
            found.append(zstandard.ZstdDecompressor().decompressobj().decompress(raw[at:]))
        at = raw.find(ZSTD, at + 1)
    return b"".join(found)


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_a_user_is_erased_only_when_that_is_confirmed(commands: Commands, answer: str) -> None:
    user = sign_in(commands)
    done = commands.run("user", "erase", user, input=answer)
    assert done.code == (1 if answer else 130)
    assert done.out == ""
    assert commands.json("user", "show", user)["sessions"] == 2
    assert "2 sessions ended" in commands("user", "erase", user, input="y\n")


def test_a_user_may_sign_in_again_after_being_erased(commands: Commands) -> None:
    user = sign_in(commands)
    commands("user", "erase", user, "--yes")
    assert sign_in(commands) == user
    assert commands.json("user", "show", user)["sessions"] == 2
