"""Why is this phone stuck? One answer from all that is known of a session: plain words first, then the figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from ledger.acks import Ack, format_ack
from ledger.entity_types import COMPLETE, ENTITY_TYPES, RESET
from ledger.positions import iso_from_us
from projections.explain.case import WEIGHTS, Case, Finding, after_text, rows_text
from projections.explain.device_rules import RULES
from projections.explain.facts import Facts
from projections.explain.library import UNASKED, Library
from projections.explain.story import Ignored, Story, tell
from projections.history.words import ack_text, instant
from projections.sent.words import StreamTold, told


class NextThing(msgspec.Struct, frozen=True, rename="camel"):
    """What the device will be sent first when it asks again."""

    sends: Literal["nothing", "reset", "rows", "complete", "unknown"]
    entity_type: str | None
    says: str


class TypeFigures(msgspec.Struct, frozen=True, rename="camel"):
    """How one entity type stands.

    `offers`: new offers of it since it last advanced. `rows_ahead`: rows beyond its checkpoint, at most; `newest`: the
    last of them. `refused`, `stale`: acks that moved nothing since it last advanced.
    """

    type: str
    ack: str | None
    acknowledged_at: str | None
    epoch: int
    offered_up_to: str | None
    offers: int
    rows_ahead: int | None
    newest: str | None
    refused: int
    stale: int


class IgnoredAcks(msgspec.Struct, frozen=True, rename="camel"):
    """Acks of one type that moved nothing for one reason, since that type last advanced, as far as they are on record.

    `times`: how many at least, those among them of other types that came in the same request and are not told apart.
    """

    type: str
    reason: str
    times: int
    last_ack: str
    last_at: str


class SourceFigures(msgspec.Struct, frozen=True, rename="camel"):
    """How the source of the library is; `lagsS` is how far what it gives lies behind what was written, in seconds."""

    kind: str
    ok: bool
    text: str
    lags_s: int


class HeldBackRows(msgspec.Struct, frozen=True, rename="camel"):
    """Rows of one type that no stream sends for now, at most so many, and one of them.

    `needs` is the parent that is missing, `table|id`, or the field that does not fit.
    """

    type: str
    rows: int
    reason: Literal["missing_parent", "unfit"]
    example: str
    needs: str


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """The answer; findings come in the order of their weight. `known` tells what the figures can and cannot say."""

    session_id: str
    at: str
    summary: str
    findings: list[Finding]
    next: NextThing
    types: list[TypeFigures]
    ignored: list[IgnoredAcks]
    user: str
    library: str
    created_at: str
    authenticated_by: str
    expires_at: str | None
    heard_of_at: str
    pending_reset: bool
    horizon: str | None
    source: SourceFigures | None
    held_back: list[HeldBackRows]
    events: int
    events_looked_at: int
    streams: list[StreamTold]
    known: list[str]


def explain(facts: Facts, now_us: int) -> Explanation:
    """Tell how a session stands at `now_us`; pure."""
    state, story = facts.state, tell(facts.entries, facts.state)
    case = Case(facts, story, now_us)
    findings = [finding for rule in RULES if (finding := rule(case)) is not None]
    if not findings:
        findings = [Finding("under_way", "note", "The device is in the middle of a sync; nothing shows that is wrong.")]
    findings.sort(key=lambda finding: WEIGHTS.index(finding.weight))  # stable: rules come in their order
    return Explanation(
        session_id=state.sid,
        at=iso_from_us(now_us),
        summary=findings[0].says,
        findings=findings,
        next=_next(case),
        types=[_figures(case, name) for name in case.types],
        ignored=list(_ignored(story)),
        user=state.user,
        library=state.library,
        created_at=iso_from_us(state.created_at_us),
        authenticated_by=state.authenticated_by,
        expires_at=instant(state.over_at_us),
        heard_of_at=iso_from_us(case.heard_us),
        pending_reset=state.pending_reset,
        horizon=iso_from_us(facts.library.horizon_us) if facts.library.horizon_us else None,
        source=_source(facts.library),
        held_back=[
            HeldBackRows(each.entity_type, each.rows, each.reason, each.example_id, each.parent)
            for each in facts.library.held_back
        ],
        events=state.seq,
        events_looked_at=len(facts.entries),
        streams=[told(sent) for sent in facts.sent],
        known=list(_known(facts)),
    )


def _next(case: Case) -> NextThing:
    """Tell what the device will be sent first, if it asks for the same types as last time."""
    if case.over:
        return NextThing("nothing", None, "Nothing: it is answered 401, and must sign in again.")
    if case.reset_due:
        return NextThing("reset", RESET, "Only SyncResetV1: it must forget all it has and start over.")
    if not case.facts.types:
        return NextThing("unknown", None, "What it asks for: it never asked before.")
    if not case.answers:
        return NextThing("unknown", None, "What it is sent next is known when the source of its library answers.")
    for name in case.facts.types:
        ahead = case.facts.library.ahead.get(name)
        if ahead is None:
            return NextThing("unknown", None, f"That is not known: rows of {name} could not be counted in time.")
        if rows := ahead.rows:
            return NextThing("rows", name, f"{rows_text(rows)} of {name}{after_text(case, name)}.")
    return NextThing("complete", COMPLETE, "Only SyncCompleteV1: there is nothing it has not got.")


def _figures(case: Case, name: str) -> TypeFigures:
    state, story, ahead = case.state, case.story.of(name), case.facts.library.ahead.get(name)
    held, offered_us = state.checkpoints.get(name), state.offered_us(name)
    return TypeFigures(
        type=name,
        ack=format_ack(Ack(name, held.position, state.epoch_of(name))) if held else None,
        acknowledged_at=iso_from_us(held.acked_at_us) if held else None,
        epoch=state.epoch_of(name),
        offered_up_to=iso_from_us(offered_us) if offered_us >= 0 else None,
        offers=len(story.offers),
        rows_ahead=ahead.rows if ahead else None,
        newest=instant(ahead.newest_us) if ahead else None,
        refused=len(story.refused),
        stale=len(story.stale),
    )


def _source(library: Library) -> SourceFigures | None:
    if library is UNASKED:
        return None
    return SourceFigures(library.health.kind, library.health.ok, library.health.text, library.lags_us // 1_000_000)


def _ignored(story: Story) -> Iterator[IgnoredAcks]:
    """Sum up, by type and reason, what moved nothing."""
    groups: dict[tuple[int, str], list[Ignored]] = {}
    for one in (*story.ignored("refused"), *story.ignored("stale")):
        groups.setdefault((one.ack.code, one.reason), []).append(one)
    for (code, reason), found in groups.items():
        last, times = found[-1], sum(1 + one.others for one in found)
        yield IgnoredAcks(ENTITY_TYPES[code], reason, times, ack_text(last.ack), iso_from_us(last.at_us))


def _known(facts: Facts) -> Iterator[str]:
    yield "A stream that had nothing to send leaves no trace: the device may have asked more often than is told."
    yield (
        "Refused and late acks of a type are on record once until it advances or is cleared: the first refused one, "
        "and the last of the first request with late ones, beside how many that had. What follows leaves no event."
    )
    yield "That a device was heard of without an event is noted at most once an hour."
    if not facts.library.whole:
        yield "The source did not count all rows in time: how far the device is behind is not known for every type."
    if len(facts.entries) < facts.state.seq:
        yield f"Only the newest {len(facts.entries):,} of {facts.state.seq:,} events were looked at."
