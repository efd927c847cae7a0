"""What a check of a source found: the same form for every source."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Weight = Literal["problem", "warning", "note"]


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing a check found.

    A problem must be mended before devices sync; a warning costs rows or speed; a note is good to know. `place` is
    where the mapping says it (`entities.AssetV2[0].data.checksum`), `table` and `column` are as the database names
    them, and `index` are statements that would mend it, one a line. What is not known is empty.
    """

    weight: Weight
    says: str
    entity_type: str = ""
    place: str = ""
    table: str = ""
    column: str = ""
    index: str = ""

    @property
    def told(self) -> str:
        """What it says, with the table and column in front of it."""
        where = ".".join(filter(None, (self.table, self.column)))
        return f"{where}: {self.says}" if where else self.says


class CheckReport(Struct, kw_only=True):
    """A source's state: whether it answers, what an operator should know of it, and what is wrong."""

    kind: str
    facts: dict[str, str]
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Tell whether nothing must be mended."""
        return not any(problem.weight == "problem" for problem in self.problems)
