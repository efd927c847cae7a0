"""Whether the lines of a page are such that a device can read them; checked before any is sent.

A whole page is checked in one call. Only if that fails is it looked at line by line. What the database's types hold
already (`json_sql.py`) is not looked at again; what is left is checked as the registry's payloads have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from ledger.errors import InvalidInput
from ledger.positions import check_id
from projections.entities.lines import END, JoinedLines
from projections.entities.postgres.reading import place_of
from projections.entities.postgres.statements.json_sql import WELL_FORMED, Printed

_FIELD: Final = re.compile(r"\.data\.(\w+)")
_PLAIN_ID: Final = re.compile(rb'"ack":"\w+\|[^|]{27}\|[A-Za-z0-9_.:@/+=~ -]{1,200}\Z')


class Unfit(NamedTuple):
    """A line that is not sent: its place in the page, the field that does not fit, and why, without its value."""

    at: int
    field: str
    reason: str


class LineCheck:
    """Checks the lines of one entity type."""

    def __init__(self, checks: Iterable[tuple[str, Printed]], *, text_ids: bool) -> None:
        """`checks` pairs payload keys with how they are printed; `text_ids`: ids may be any text."""
        given = {name: piece.check for name, piece in checks if piece.check is not None}
        fields = {name: check for name, check in given.items() if check is not WELL_FORMED}
        names = {f"f{at}": name for at, name in enumerate(fields)}
        data = msgspec.defstruct("Data", [(field, fields[name]) for field, name in names.items()], rename=names)
        line = msgspec.defstruct("Line", [("data", data)])
        self._text_ids = text_ids
        self._nothing = not given
        self._line = msgspec.json.Decoder(line)

    def unfit(self, text: bytes) -> list[Unfit]:
        """List the lines that do not fit, of a text of lines that are closed by CLOSED."""
        if not text or (self._fit(text) and self._ids_fit(text)):
            return []
        return [found for index, line in enumerate(JoinedLines(text)) if (found := self._look(index, line)) is not None]

    def _fit(self, text: bytes) -> bool:
        if self._nothing:
            return True
        try:
            self._line.decode_lines(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return True

    def _ids_fit(self, text: bytes) -> bool:
        return not self._text_ids or all(map(_PLAIN_ID.search, JoinedLines(text)))

    def _look(self, index: int, line: bytes) -> Unfit | None:
        try:
            self._line.decode(line + END)
            if self._text_ids:
                check_id("id", place_of(line).id)
        except msgspec.ValidationError as error:
            found = _FIELD.search(str(error))
            # An enum's error quotes the value, behind a colon or in quotes; types are in backticks.
            return Unfit(index, found[1] if found else "", re.split(r"[':]| - at ", str(error))[0].strip())
        except InvalidInput as error:
            return Unfit(index, "id", error.problems[0][1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Unfit(index, "", "is no JSON")
        return None
