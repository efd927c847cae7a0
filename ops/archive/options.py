"""What archiving is configured with, and where the archive is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from ledger.errors import InvalidInput
from ops.settings.parsers import flag
from projections.archive.format import place
from projections.archive.objects import Objects, open_objects

SEGMENT_EVENTS = 200_000


class ArchiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a run seals and removes.

    `hot_s`: events younger than this stay in the stream. `hot_events`: no more than so many of a partition do, however
    young; None for any number. `retention_s`: segments that are older are removed; None: none is. `spool`: the folder
    where a segment is built, the system's for temporary files if None. `logged`: the stream id up to which each
    partition is in the transparency log, behind which nothing is sealed or removed; None where there is no log.
    """

    hot_s: float = 30 * 86400.0
    hot_events: int | None = None
    retention_s: float | None = None
    segment_events: int = SEGMENT_EVENTS
    spool: Path | None = None
    logged: Mapping[int, str] | None = None
    lease_s: float = 60.0

    def may_go(self, partition: int, stream_id: str) -> bool:
        """Tell whether what happened up to a stream id may leave the store: not before it is in the log."""
        if self.logged is None:
            return True
        cursor = self.logged.get(partition, "")
        return bool(cursor) and place(stream_id) <= place(cursor)


PLACE_VARIABLES = {
    "LEDGER_ARCHIVE",
    "LEDGER_PROOF",
    "LEDGER_USER_KEYS",
    "LEDGER_ARCHIVE_ENDPOINT",
    "LEDGER_ARCHIVE_PATH_STYLE",
    "LEDGER_ARCHIVE_REGION",
}


class ArchivePlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where the archive is; credentials are in the environment as obstore reads them (AWS_ACCESS_KEY_ID, …)."""

    url: str
    variable: str = "LEDGER_ARCHIVE"
    """Which variable names it."""
    endpoint: str | None = None
    path_style: bool = False
    region: str = ""

    def open(self, *, make: bool = True) -> Objects:
        """Open it; a folder that is not there is made, or without `make` an error. Raises InvalidInput."""
        try:
            return open_objects(
                self.url, endpoint=self.endpoint, path_style=self.path_style, region=self.region, make=make
            )
        except InvalidInput as error:
            raise InvalidInput([((self.variable,), what) for _, what in error.problems]) from error

    def below(self, folder: str) -> ArchivePlace:
        """Name a folder in it."""
        return msgspec.structs.replace(self, url=f"{self.url.rstrip('/')}/{folder}")


def place_from(environ: Mapping[str, str], variable: str = "LEDGER_ARCHIVE") -> ArchivePlace | None:
    """Read where the archive is, or what else `variable` names; None if it is not set. Raises InvalidInput.

    LEDGER_ARCHIVE's companions tell of all.
    """
    url = environ.get(variable, "").strip()
    if not url:
        return None
    try:
        path_style = flag(environ.get("LEDGER_ARCHIVE_PATH_STYLE") or "false")
    except ValueError as error:
        raise InvalidInput([(("LEDGER_ARCHIVE_PATH_STYLE",), str(error))]) from None
    return ArchivePlace(
        url=url,
        variable=variable,
        endpoint=environ.get("LEDGER_ARCHIVE_ENDPOINT", "").strip() or None,
        path_style=path_style,
        region=environ.get("LEDGER_ARCHIVE_REGION", "").strip(),
    )
