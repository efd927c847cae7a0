"""What checks find: one thing each, in the same words wherever it is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

REPORTED: Final = 1000
"""How many findings a report names; all are counted."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be, or could not be made so: of which session ('' if of none), at which event.

    `segment`: the one of the archive that it is in, '' for none. `repairable`: it is a projection, which
    `verify --repair` writes anew from the events.
    """

    partition: int
    session: str
    what: str
    event: str = ""
    segment: str = ""
    repairable: bool = False

    @property
    def text(self) -> str:
        """Say it in one line."""
        where = f"partition {self.partition} session {self.session or '?'}"
        what = f"{self.segment}: {self.what}" if self.segment else self.what
        return f"{where}: {what}" + (f" (event {self.event})" if self.event else "")


def lines(named: Sequence[Finding], count: int) -> Iterator[str]:
    """Say findings line by line, and how many more there are than were named."""
    for finding in named:
        yield finding.text
    if count > len(named):
        yield f"… and {count - len(named):,} more"
