"""Users from the command line: shown, and erased with their sessions."""

from __future__ import annotations

import json

import pytest

from ledger.events import SessionEnded as SessionEndedEvent
from ledger.log.reader import read_partition
from ops.connect import Opened, now_us, open_credentials
from tests.commands import Commands, commands
from tests.dump import bytes_of, values_of

__all__ = ["commands"]

ISSUER = "https://id.example.org"


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
    assert commands("user", "erase", user, "--yes") == "2 sessions ended, identity erased\n"

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
        assert ends == [SessionEndedEvent("erased", "command")] * 2
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
