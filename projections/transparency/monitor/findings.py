"""What the monitor finds: one thing each, by its entry in the log or the object it lies in."""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.transparency.entries import ClosedLeaf

REPORTED: Final = 1000
"""How many findings a report names; all are counted."""


class LogFinding(msgspec.Struct, frozen=True):
    """One thing that the log contradicts, or that is wrong with the log: of which session, at which entry or object.

    `session` and `object` are '' and `entry` -1 where there is none; `partition` is -1 where the log does not tell it.
    """

    what: str
    session: str = ""
    entry: int = -1
    object: str = ""
    partition: int = -1
    event: str = ""

    @property
    def text(self) -> str:
        """Say it in one line."""
        where = [
            f"session {self.session}" if self.session else "",
            f"entry {self.entry}" if self.entry >= 0 else "",
            f"object {self.object}" if self.object else "",
        ]
        event = f" (event {self.event} of partition {self.partition})" if self.event else ""
        return f"the log, {', '.join(filter(None, where)) or 'as a whole'}: {self.what}{event}"


class LogReport(msgspec.Struct):
    """What was compared with the log. `size`: of the checkpoint it was compared with; `behind`: events not logged yet.

    `unkept`: ended sessions of which retention, as it says, removed all, so only that they were logged can be told.
    `contradicted`: by session whose history is not the logged one its partition, -1 where that is not known.
    `follows`: origin of the closed log before this one, '' for none, which had `follows_size` entries, and why it was
    closed.
    `compared`: whether the store could be compared at all. `batches` and `checkpoints` count the objects looked at.
    """

    origin: str = ""
    follows: str = ""
    follows_size: int = 0
    closed_why: str = ""
    size: int = 0
    entries: int = 0
    sessions: int = 0
    events: int = 0
    behind: int = 0
    unkept: int = 0
    batches: int = 0
    checkpoints: int = 0
    minimum: int = 0
    """Below which index the log is pruned: what is there is neither shown nor compared any more."""
    compared: bool = False
    different: int = 0
    differences: list[LogFinding] = []
    contradicted: dict[str, int] = {}

    def set_follows(self, closed: ClosedLeaf | None) -> None:
        """Say which closed log this one follows."""
        self.follows, self.follows_size, self.closed_why = ("", 0, "") if closed is None else closed[:3]

    def note(self, finding: LogFinding) -> None:
        """Count a finding, and name it if there is room."""
        self.different += 1
        if finding.session:
            self.contradicted[finding.session] = finding.partition
        if len(self.differences) < REPORTED:
            self.differences.append(finding)

    def wrong(self, name: str, what: str) -> None:
        """Note what is wrong with an object of the log."""
        self.note(LogFinding(what, object=name))
