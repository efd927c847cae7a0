"""`syncledger console`: a link that signs in once, and signing everybody out."""

from __future__ import annotations

from ops.opening.ledger import Opened
from projections.accounts.console_access import ConsoleAccess, Holder
from tests.support.processes.commands import Commands, commands

__all__ = ["commands"]


def test_a_link_says_where_as_whom_and_with_which_rights(commands: Commands) -> None:
    commands("key", "create", "--scope", "audit.read")
    link = commands("console", "link", "--url", "https://sync.example/", "--by", "ann").strip()
    reading = commands("console", "link", "--read-only", "--by", "bob").strip()
    assert link.startswith("https://sync.example/console/link#")
    assert reading.startswith("http://127.0.0.1:2283/console/link#")

    async def take(found: Opened) -> list[Holder | None]:
        access, now_us = ConsoleAccess(found.store), found.ledger.clock()
        return [await access.take_link(each.partition("#")[2], now_us) for each in (link, reading, link)]

    taken = commands.inside(take)
    assert taken == [
        Holder("link", name="ann", scopes=("audit.read", "sessions.manage")),
        Holder("link", name="bob", scopes=("audit.read",)),
        None,
    ]


def test_the_domain_of_the_settings_is_where_it_leads(commands: Commands) -> None:
    commands("key", "create", "--scope", "audit.read")
    done = commands.run("console", "link", external_domain="https://sync.example")
    assert done.out.startswith("https://sync.example/console/link#")


def test_everybody_is_signed_out(commands: Commands) -> None:
    async def sign_in(found: Opened) -> str:
        access = ConsoleAccess(found.store)
        await access.make_link("ann", ["audit.read"], found.ledger.clock())
        return await access.open(Holder("link", name="ann"), found.ledger.clock())

    secret = commands.inside(sign_in)
    assert "1 session" in commands("console", "sign-out")

    async def find(found: Opened) -> Holder | None:
        return await ConsoleAccess(found.store).find(secret, found.ledger.clock())

    assert commands.inside(find) is None
    assert "0 sessions" in commands("console", "sign-out")


def test_what_no_browser_opens_is_no_address(commands: Commands) -> None:
    commands("key", "create", "--scope", "audit.read")
    for url in ("ftp://sync.example", "sync.example", "https://", "https://sync.example/?a=b"):
        done = commands.run("console", "link", "--url", url)
        assert (done.code, "--url" in done.err, done.out) == (2, True, ""), url
