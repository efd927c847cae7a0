"""Settings of where the entities come from: the catalog, a PostgreSQL database, or Gumnut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ops.settings.identity import Identity, shown

Source = Literal["catalog", "postgres", "gumnut"]
IMMICH = "immich"
_DATABASE = "LEDGER_POSTGRES"
_MAPPING = "LEDGER_POSTGRES_MAPPING"
_KEY = "LEDGER_GUMNUT_API_KEY"


class PostgresSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A PostgreSQL database as source."""

    url: str | None = None
    """Where it is and who asks there, like `postgresql://ledger:…@db/immich`."""
    mapping: str = IMMICH
    """Which rows are which entities: a preset's name, or the path of a TOML file."""
    pool: int = 8
    """Connections of each worker, at most."""
    wait_s: float = 5.0
    """How long a request waits for one of them, and for a new one to be made."""
    timeout_s: float = 30.0
    """How long one statement may take."""

    def __repr__(self) -> str:
        """Show everything but the URL, which may hold a password in more than one place."""
        return shown(self, url="hidden" if self.url else None)


def _beside_immich(source: Source, set_variables: Mapping[str, Any]) -> list[tuple[tuple[str], str]]:
    """Name what keeps Immich's tokens from being looked up: they are in the database that the rows are in."""
    needs = "LEDGER_IDENTITY=immich looks sessions up in Immich's own database"
    mapping = set_variables.get(_MAPPING, IMMICH)
    if source != "postgres":
        return [(("LEDGER_SOURCE",), f"is {source}: {needs}; set LEDGER_SOURCE=postgres, and {_DATABASE} to its URL")]
    if mapping is not None and str(mapping).strip() != IMMICH:
        return [((_MAPPING,), f"is {mapping}: {needs}, which the preset {IMMICH} describes; leave {_MAPPING} out")]
    return []


def default_source(set_variables: Mapping[str, Any]) -> Source:
    """Choose the source where LEDGER_SOURCE does not: the database, if one is named."""
    return "postgres" if _DATABASE in set_variables else "catalog"


def source_problems(
    source: Source, identity: Identity, set_variables: Mapping[str, Any]
) -> list[tuple[tuple[str], str]]:
    """Name the variables that a source lacks, and those that belong to another one, each with what to do.

    `set_variables` are those that were given, also if they did not fit.
    """
    problems = []
    if identity == "immich":
        problems += _beside_immich(source, set_variables)
    if source == "postgres" and _DATABASE not in set_variables:
        text = "is not set: LEDGER_SOURCE=postgres needs the database's URL, like postgresql://ledger@db/immich"
        problems.append(((_DATABASE,), f"{text}, here or in a file that {_DATABASE}_FILE names"))
    if source == "gumnut" and identity != "gumnut" and _KEY not in set_variables:
        text = "is not set: LEDGER_SOURCE=gumnut asks in the name of users who sign in with LEDGER_IDENTITY=gumnut"
        problems.append(((_KEY,), f"{text}; for all others it needs a key"))
    for name in sorted(set_variables):
        owner = "postgres" if name.startswith(_DATABASE) else "gumnut" if name == _KEY else source
        if owner != source:
            text = f"goes with LEDGER_SOURCE={owner}, and the source is {source}: set that, or leave {name} out"
            problems.append(((name,), text))
    return problems
