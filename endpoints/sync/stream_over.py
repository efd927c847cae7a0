"""That a sync stream is over: one line in the log for each, whatever it sent and however it ended."""

from __future__ import annotations

import logging

import msgspec

log = logging.getLogger(__name__)


class StreamOver(msgspec.Struct, frozen=True):
    """A sync stream that is over, as it is told.

    `session` is the short id. `how` is one of `projections.sent.record.How`, or `reset` where it was nothing but the
    line that has a device start over. `rows` and `size` (bytes before compression) count what was handed to the
    connection, `last` is the ack of the last row, '' without any. `why` tells what broke or refused it.
    """

    session: str
    user: str
    route: str
    status: int
    how: str
    took_s: float
    rows: int
    size: int
    correlation: str
    last: str = ""
    why: str = ""


def log_it(over: StreamOver) -> None:
    """Write the line."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields: dict[str, object] = {
        "session": over.session,
        "user": over.user,
        "route": over.route,
        "status": over.status,
        "how": over.how,
        "seconds": round(over.took_s, 3),
        "rows": over.rows,
        "bytes": over.size,
        "correlation_id": over.correlation,
    }
    if over.last and over.how != "completed":
        fields["last"] = over.last
    if over.why:
        fields["why"] = over.why
    log.info("stream over: %s [%s]", over.how, over.correlation, extra=fields)
