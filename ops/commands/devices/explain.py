"""`syncledger explain`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from textwrap import wrap

import click
from click import echo

from ledger.entity_types import COMPLETE
from ledger.errors import NoSuchSession
from ledger.keys import check_name
from ledger.log.service import Ledger
from ledger.session_ids import short_id
from ops.commands.options import json_option, print_json, progress, run, session_id, settings_from, store_options
from ops.commands.tables import columns, counted
from ops.opening.ledger import opened
from ops.opening.sources import open_source
from projections.explain.answer import Explanation, TypeFigures
from projections.explain.answer import explain as explain_facts
from projections.explain.facts import gather
from projections.finding.prefixes import resolved
from projections.finding.summaries import SHOWN, all_of
from projections.sent.words import ENDS, row_text

_COLUMNS = 80
_WIDEST = 64
_LEFT = 24
"""What is left of a line beside the other columns of a table."""
_STREAMS = 8
"""How many of the last streams are shown; `--json` has all that are kept."""
_DULL = {"offers": "0", "refused": "0", "late": "0", "epoch": "1"}


@click.command()
@click.argument("session", callback=session_id, required=False)
@click.option(
    "--user", metavar="USER", help="All living sessions of this user; with SESSION it saves asking every partition."
)
@store_options
@json_option
def explain(session: str | None, user: str | None, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Tell why a device does not sync: figures first and, last of all, the answer in plain words.

    The first digits of a session's id are enough. If a user has several devices, each is told in short; --json has all.
    """
    if session is None and user is None:
        raise click.UsageError("name a SESSION, or a user with --user; syncledger session find looks for one")
    if user is not None:
        check_name("--user", user)

    async def work() -> tuple[list[Explanation], int]:
        settings = settings_from(data_dir=data_dir, redis_url=redis_url)
        async with opened(settings) as found, AsyncExitStack() as closing:
            if found.archive is not None:
                await found.check_archive()
            ledger = found.ledger
            with progress("gathering facts") as advance:
                places, more = await _places(ledger, session, user)
                source = await open_source(settings, found, closing)
                told = []
                for number, (partition, sid) in enumerate(places):
                    told.append(explain_facts(await gather(ledger, found.past, source, partition, sid), ledger.clock()))
                    advance(number + 1, "")
                return told, more

    told, more = run(work())
    if as_json:
        for one in told:
            print_json(one)
        return
    if len(told) == 1:
        for line in _words(told[0]):
            echo(line)
        return
    for one in told:
        echo(f"{short_id(one.session_id)}  heard of {_second(one.heard_of_at)}")
        for line in _wrapped(f"  {one.findings[0].weight}: {one.findings[0].code}: {one.summary}"):
            echo(line)
    echo(f"More of one: syncledger explain {short_id(told[0].session_id)}")
    if more:
        echo(f"Left out: {counted(more, 'session')} heard of earlier; syncledger session list --user {user} has all")


async def _places(ledger: Ledger, session: str | None, user: str | None) -> tuple[list[tuple[int, str]], int]:
    """Find what is to be explained, and how many sessions more there are; raises NoSuchSession, Ambiguous."""
    if session is not None:
        return [await resolved(ledger, session, user)], 0
    assert user is not None
    living = await all_of(ledger, user, ended=False)
    if not living:
        raise NoSuchSession(
            f"No session of {user} lives: syncledger session list --user {user} --all shows those that have ended"
        )
    return [(place.partition, place.sid) for place in living[:SHOWN]], max(len(living) - SHOWN, 0)


def _words(found: Explanation) -> Iterator[str]:
    """Yield the figures, then what they mean: behind a long table the answer is what stays on the screen."""
    yield from columns(list(_facts(found)), _WIDEST)
    for table in (_types(found), _streams(found), _ignored(found), _held_back(found)):
        if len(table) > 1:
            yield ""
            yield from columns(table, _WIDEST)
    yield ""
    if nothing_of := sum(map(_has_nothing, found.types)):
        yield from _wrapped(
            f"(Left out: {counted(nothing_of, 'type')} that it asked for and of which there is nothing.)"
        )
    for line in found.known:
        yield from _wrapped(f"({line})")
    yield ""
    for finding in reversed(found.findings):  # what weighs most comes last
        seen = ", ".join(map(str, finding.events))
        shown = f" [{'event' if len(finding.events) == 1 else 'events'} {seen}]" if seen else ""
        yield from _wrapped(f"{finding.weight:<7}  {finding.code}: {finding.says}{shown}")
    yield from _wrapped(f"Next it is sent: {found.next.says}")


def _wrapped(text: str) -> list[str]:
    return wrap(text, _COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _facts(found: Explanation) -> Iterator[tuple[str, str]]:
    yield "session", found.session_id
    yield "user", found.user
    yield "library", found.library
    yield "signed in", f"{_second(found.created_at)} {found.authenticated_by}".rstrip()
    yield "heard of", _second(found.heard_of_at)
    yield "expires", _second(found.expires_at) if found.expires_at else "never"
    yield "library is at", found.horizon or "not known"
    yield "its source", _source(found)
    yield "events", f"{found.events:,}"


def _source(found: Explanation) -> str:
    if found.source is None:
        return "not asked"
    return found.source.kind if found.source.ok else f"{found.source.kind}, which does not answer"


def _types(found: Explanation) -> list[tuple[str, ...]]:
    """Lay out how each type stands; a column in which nothing is to be seen is left out, and so is such a type."""
    header = ("type", "acknowledged", "behind", "offers", "refused", "late", "epoch")
    rows = [
        (
            each.type,
            _minute(each.acknowledged_at) if each.acknowledged_at else "never",
            _rows_behind(each),
            f"{each.offers:,}",
            f"{each.refused:,}",
            f"{each.stale:,}",
            str(each.epoch),
        )
        for each in found.types
        if not _has_nothing(each)
    ]
    shown = [at for at, name in enumerate(header) if name not in _DULL or any(row[at] != _DULL[name] for row in rows)]
    return [tuple(row[at] for at in shown) for row in (header, *rows)]


def _has_nothing(each: TypeFigures) -> bool:
    """Tell whether there is nothing of a type, and never was: it was asked for all the same."""
    return each.acknowledged_at is None and each.rows_ahead == 0 and not each.refused and not each.stale


def _rows_behind(each: TypeFigures) -> str:
    if each.type == COMPLETE:
        return "-"  # the end of a stream, no row
    return "?" if each.rows_ahead is None else f"{each.rows_ahead:,}"


def _streams(found: Explanation) -> list[tuple[str, ...]]:
    rows = [
        (
            _minute(each.at),
            ENDS[each.how] if each.times == 1 else f"{ENDS[each.how]} {each.times:,}x",
            f"{each.rows:,}",
            f"{each.bytes:,}",
            f"{each.seconds:,.1f}",
            row_text(each.last)[:_LEFT] if each.last else "-",
        )
        for each in found.streams[:_STREAMS]
    ]
    return [("last streams", "ended", "rows", "bytes", "s", "up to"), *rows]


def _ignored(found: Explanation) -> list[tuple[str, ...]]:
    rows = [(each.type, f"{each.times:,}", _minute(each.last_at), each.reason[:_LEFT]) for each in found.ignored]
    return [("ignored acks of", "times", "last", "because"), *rows]


def _held_back(found: Explanation) -> list[tuple[str, ...]]:
    rows = list[tuple[str, ...]]()
    for each in found.held_back:
        rows.append((each.type, f"{each.rows:,}", f"like {each.example}"))
        rows.append(("", "", f"{'needs' if each.reason == 'missing_parent' else 'unfit at'} {each.needs}"))
    return [("held back", "rows", "why"), *rows]


def _second(instant: str) -> str:
    """Cut an instant of ISO 8601 to the second."""
    return f"{instant[:10]} {instant[11:19]} UTC"


def _minute(instant: str) -> str:
    return f"{instant[:10]} {instant[11:16]}"
