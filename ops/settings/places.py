"""Places in object storage that settings name: the archive, the transparency log, users' keys."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ledger.errors import InvalidInput
from ops.settings.parsers import flag
from projections.archive.objects import Objects, open_objects

PLACE_VARIABLES = {
    "LEDGER_ARCHIVE",
    "LEDGER_PROOF",
    "LEDGER_USER_KEYS",
    "LEDGER_ARCHIVE_ENDPOINT",
    "LEDGER_ARCHIVE_PATH_STYLE",
    "LEDGER_ARCHIVE_REGION",
}


class StoragePlace(msgspec.Struct, frozen=True, kw_only=True):
    """A folder or bucket; credentials are in the environment as obstore reads them (AWS_ACCESS_KEY_ID, …).

    `variable` is the one that names it.
    """

    url: str
    variable: str = "LEDGER_ARCHIVE"
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

    def below(self, folder: str) -> StoragePlace:
        """Name a folder in it."""
        return msgspec.structs.replace(self, url=f"{self.url.rstrip('/')}/{folder}")


def place_from(environ: Mapping[str, str], variable: str = "LEDGER_ARCHIVE") -> StoragePlace | None:
    """Read the place that a variable names; None if it is not set. Raises InvalidInput.

    How S3-compatible servers are reached is the same for all places: LEDGER_ARCHIVE_ENDPOINT, …
    """
    url = environ.get(variable, "").strip()
    if not url:
        return None
    try:
        path_style = flag(environ.get("LEDGER_ARCHIVE_PATH_STYLE") or "false")
    except ValueError as error:
        raise InvalidInput([(("LEDGER_ARCHIVE_PATH_STYLE",), str(error))]) from None
    return StoragePlace(
        url=url,
        variable=variable,
        endpoint=environ.get("LEDGER_ARCHIVE_ENDPOINT", "").strip() or None,
        path_style=path_style,
        region=environ.get("LEDGER_ARCHIVE_REGION", "").strip(),
    )
