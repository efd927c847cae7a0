"""`syncledger explain`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import click
from click import echo

from ops.commands.options import json_option, print_json, progress, run, session_id, settings_from, store_options
from ops.commands.tables import columns
from ops.opening.ledger import opened
from ops.opening.sources import open_source
from projections.explain.answer import Explanation, TypeFigures
from projections.explain.answer import explain as explain_facts
from projections.explain.facts import gather

_WIDEST = 64
_HEADERS = ("type", "acknowledged", "behind", "offers", "refused", "late", "epoch")


@click.command()
@click.argument("session", callback=session_id)
@click.option("--user", help="The session's user, where known: saves asking every partition.")
@store_options
@json_option
def explain(session: str, user: str | None, data_dir: Path | None, redis_url: str | None, as_json: bool) -> None:
    """Tell why a device does not sync, in plain words first, then in figures."""

    async def work() -> Explanation:
        settings = settings_from(data_dir=data_dir, redis_url=redis_url)
        async with opened(settings) as found, AsyncExitStack() as closing:
            if found.archive is not None:
                await found.check_archive()
            ledger, source = found.ledger, await open_source(settings, found, closing)
            with progress("gathering facts"):
                partition = ledger.partition_of(user) if user else await ledger.locate(session)
                facts = await gather(ledger, found.past, source, partition, session)
            return explain_facts(facts, ledger.clock())

    found = run(work())
    if as_json:
        print_json(found)
        return
    for line in _words(found):
        echo(line)


def _words(found: Explanation) -> Iterator[str]:
    for finding in found.findings:
        shown = f" [events {', '.join(map(str, finding.events))}]" if finding.events else ""
        yield f"{finding.weight:<7}  {finding.code}: {finding.says}{shown}"
    yield ""
    yield f"Next it is sent: {found.next.says}"
    yield ""
    facts = [
        ("session", found.session_id),
        ("user", found.user),
        ("library", found.library),
        ("signed in", f"{found.created_at} {found.authenticated_by}".rstrip()),
        ("heard of", found.heard_of_at),
        ("expires", found.expires_at or "never"),
        ("library is at", found.horizon or "not known"),
        ("its source", _source(found)),
        ("events", f"{found.events:,}"),
    ]
    yield from columns(facts, _WIDEST)
    if found.types:
        yield ""
        yield from columns([_HEADERS, *map(_row, found.types)], _WIDEST)
    if found.ignored:
        yield ""
        rows = [(each.type, f"{each.times:,}", each.last_at, each.reason) for each in found.ignored]
        yield from columns([("ignored acks of", "times", "last", "because"), *rows], _WIDEST)
    if found.held_back:
        yield ""
        held = [(each.type, f"{each.rows:,}", each.reason, each.example, each.needs) for each in found.held_back]
        yield from columns([("held back", "rows", "reason", "like", "needs"), *held], _WIDEST)
    yield ""
    yield from found.known


def _source(found: Explanation) -> str:
    if found.source is None:
        return "not asked"
    return found.source.kind if found.source.ok else f"{found.source.kind}, which does not answer"


def _row(figures: TypeFigures) -> tuple[str, ...]:
    return (
        figures.type,
        figures.acknowledged_at or "never",
        "?" if figures.rows_ahead is None else f"{figures.rows_ahead:,}",
        f"{figures.offers:,}",
        f"{figures.refused:,}",
        f"{figures.stale:,}",
        str(figures.epoch),
    )
