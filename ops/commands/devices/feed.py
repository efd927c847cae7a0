"""`syncledger feed`: all that happens, as lines of JSON."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Final

import click
from click import echo

from ledger.errors import CorruptLedger, Unavailable
from ledger.log.service import Ledger
from ops.commands.options import print_json, progress, run, session_id, settings_from, store_options
from ops.commands.tables import counted
from ops.opening.ledger import Opened, opened
from projections.feed.follower import Batch
from projections.feed.forms import FORM_NAMES, FORMS
from projections.feed.hub import FeedHub
from projections.feed.position import FeedPosition
from projections.feed.printing import Printer
from projections.feed.told import FeedFilter, Notice
from projections.finding.prefixes import resolved
from projections.history.words import TAGS

AGAIN_S: Final = 1.0


@click.command()
@click.option("--follow", "follows", is_flag=True, help="Go on with what comes, until somebody stops it.")
@click.option(
    "--from",
    "since",
    metavar="POSITION",
    help="Behind a position that a feed printed, or from `start` or `now` on [default: start; with --follow: now].",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Go on where this name stands, the first time at the start; it moves on behind what was printed.",
)
@click.option("--form", type=click.Choice(FORM_NAMES), default="own", show_default=True, help="How an event reads.")
@click.option("--user", metavar="USER", help="Only events of this user.")
@click.option("--session", metavar="SESSION", callback=session_id, help="Only events of this session.")
@click.option(
    "--type", "types", multiple=True, type=click.Choice(TAGS), metavar="TYPE", help=f"Only these: {', '.join(TAGS)}."
)
@click.option("--with-devices", is_flag=True, help="Also what devices say of themselves, and who did something.")
@click.option("--names", "lists", is_flag=True, help="List the names and where each stands.")
@click.option("--forget", is_flag=True, help="Forget the --name.")
@store_options
def feed(
    follows: bool,
    since: str | None,
    name: str | None,
    form: str,
    user: str | None,
    session: str | None,
    types: tuple[str, ...],
    with_devices: bool,
    lists: bool,
    forget: bool,
    data_dir: Path | None,
    redis_url: str | None,
) -> None:
    """Print what happened to all sessions, an event a line, in the order of each session.

    The last line of each read has a `position`; --from continues behind it. After a break lines may come again, with
    the same `id`. A partition that cannot be read is named in a line, and the others go on.
    """
    if forget and name is None:
        raise click.UsageError("--forget goes with --name: which name is to be forgotten?")

    async def work() -> None:
        async with AsyncExitStack() as stack:
            found = await stack.enter_async_context(opened(settings_from(data_dir=data_dir, redis_url=redis_url)))
            hub = FeedHub(found.ledger, found.archive, found.presence)
            stack.push_async_callback(hub.close)
            if lists:
                names = await hub.names.all()
                for kept in names:
                    print_json({"name": kept.name, "position": kept.position, "atUs": kept.at_us})
                if not names:
                    echo("no name is kept: a feed that is read with --name keeps one", err=True)
            elif forget and name is not None:
                if not await hub.names.forget(name):
                    raise click.UsageError(f"the name {name} is not kept: syncledger feed --names lists all")
            else:
                key_now = found.ledger.sealing.key_now if with_devices else None
                printer = Printer(FORMS[form](hub.ledger_id, metadata.version("syncledger")), found.clock, key_now)
                if _was_cut_off():
                    sys.stdout.buffer.write(b"\n")
                reader = _Reader(hub, found.ledger, printer, name)
                await reader.print_all(await _wanted(hub, found, user, session, types), since, follows=follows)

    run(work())


def _was_cut_off() -> bool:
    """Tell whether the output goes behind a line in a file that was killed before its end."""
    try:
        if not stat.S_ISREG(os.fstat(1).st_mode) or not os.fstat(1).st_size:
            return False
        with open(f"/proc/{os.getpid()}/fd/1", "rb") as written:
            written.seek(-1, os.SEEK_END)
            return written.read(1) != b"\n"
    except OSError:  # a system that does not tell
        return False


async def _wanted(
    hub: FeedHub, found: Opened, user: str | None, session: str | None, types: tuple[str, ...]
) -> FeedFilter:
    if session is not None:
        _, session = await resolved(found.ledger, session, user)
    return await hub.filter_of(user=user, session=session, types=types)


class _Reader:
    """Prints the feed, and moves a name on with what was printed."""

    def __init__(self, hub: FeedHub, ledger: Ledger, printer: Printer, name: str | None) -> None:
        self._hub, self._ledger, self._printer, self._name = hub, ledger, printer, name
        self._unreadable: set[int | None] = set()
        self._count = 0

    async def print_all(self, wanted: FeedFilter, since: str | None, *, follows: bool) -> None:
        """Print what is there, or all that comes; raises CorruptLedger where a partition could not be read."""
        kept = None if self._name is None else await self._hub.names.find(self._name)
        position = await self._hub.place(
            since or kept or ("now" if follows and self._name is None else "start"), "--from" if since else "--name"
        )
        # Where the lines do not show that it goes on, a bar does.
        silent = follows or sys.stdout.isatty()
        with nullcontext(lambda done, note: None) if silent else progress("reading events") as advance:
            while True:
                try:
                    position = await self._read(position, wanted, advance, follows=follows)
                except _Interrupted as broken:
                    echo(f"the feed waits, and goes on where it stands: {broken.error}", err=True)
                    position = broken.position
                    await asyncio.sleep(AGAIN_S)
                else:
                    break
        if self._unreadable:
            raise CorruptLedger(
                f"{counted(len(self._unreadable), 'partition')} could not be read, as told above: the position stands "
                "before what they have"
            )

    async def _read(
        self, position: FeedPosition, wanted: FeedFilter, advance: Callable[[int, str], None], *, follows: bool
    ) -> FeedPosition:
        try:
            async with aclosing(self._hub.follow(position, wanted, ends=not follows)) as batches:
                async for batch in batches:
                    await self._print(batch)
                    position = batch.position or position
                    advance(self._count, "")
        except Unavailable as error:
            if not follows:
                raise
            raise _Interrupted(error, position) from error
        return position

    async def _print(self, batch: Batch) -> None:
        for one in batch.told:
            if isinstance(one, Notice) and one.kind == "unreadable":
                self._unreadable.add(one.partition)
            elif isinstance(one, Notice) and one.kind == "readable":
                self._unreadable.discard(one.partition)
        text = None if batch.position is None else self._hub.text(batch.position)
        lines = await self._printer.lines(batch.told, text if batch.told or self._name is None else None)
        if lines:
            self._count += len(lines)
            sys.stdout.buffer.write(b"".join(line + b"\n" for line in lines))
            sys.stdout.buffer.flush()
        if self._name is not None and text is not None:  # behind what was printed, so nothing of it is missed
            await self._hub.names.keep(self._name, text, self._ledger.clock())


class _Interrupted(Exception):
    """The store went away while the feed was followed, up to `position`."""

    def __init__(self, error: Unavailable, position: FeedPosition) -> None:
        super().__init__(str(error))
        self.error = error
        self.position = position
