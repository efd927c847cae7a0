"""The mapping: which SQL makes the rows of each entity type, for the statements that are made of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from msgspec import Struct

from ledger.commands import Resend

LibraryType = Literal["uuid", "text", "bigint"]
Stamps = Literal["transaction", "clock"]


class SourceOptions(Struct, frozen=True):
    """What holds for all of a source.

    `library`: the SQL type of library ids. `stamps`: whether rows are stamped by the start of their transaction or by
    the clock. `keeps_deletes_us`: delete markers are kept at least so long; None: for ever. `version`: a statement that
    tells the version of the Immich whose database it is; empty where there is no such backend beside the service.
    """

    library: LibraryType = "uuid"
    stamps: Stamps = "transaction"
    keeps_deletes_us: int | None = None
    version: str = ""


class Order(Struct, frozen=True):
    """What rows are ordered by: a UUIDv7 alone, or a timestamp and an id. The others are empty."""

    uuid7: str = ""
    updated_at: str = ""
    id: str = ""


class ParentJoin(Struct, frozen=True):
    """A row that another one refers to, joined to it.

    `stands` is where it stands now (`id` is empty). `since` is when it could be seen first, as an SQL expression; None:
    since it stands where it does; False: it always was there before the row that refers to it. `data` are expressions
    of its own payload, for telling whether a device can read it; without them it is looked up where it is mapped.
    `changes` is where it stands when it changed last, if that is another place than `stands`.
    """

    table: str
    from_: str
    on: str
    stands: Order
    since: str | Literal[False] | None = None
    data: dict[str, str] = {}
    changes: Order = Order()


class Each(Struct, frozen=True):
    """Shares: rows come in the order of these, and of each in their own; both are a UUIDv7. `from_` is one table."""

    from_: str
    where: str
    order: Order


class Branch(Struct, frozen=True):
    """Some rows of an entity type: SQL for where they are, their order, and each payload key's expression.

    `needs_column` and `lacks_column` (`table.column`, or empty) tell the versions of a schema that a branch is for.
    """

    entity_type: str
    from_: str
    where: str
    order: Order
    data: dict[str, str]
    parents: tuple[ParentJoin, ...] = ()
    each: Each | None = None
    needs_column: str = ""
    lacks_column: str = ""


class Mapping(Struct, frozen=True):
    """All of a mapping; entity types that are not in it have no rows. `name` is for messages.

    `resends` are in the order of their revisions; `resend_columns` tells of some which column a database has where they
    hold, since an upgrade of its owner.
    """

    source: SourceOptions
    entities: dict[str, tuple[Branch, ...]]
    name: str = "mapping"
    resends: tuple[Resend, ...] = ()
    resend_columns: dict[int, str] = {}

    def resends_with(self, columns: Collection[str]) -> tuple[Resend, ...]:
        """Tell the resends that hold for a database which has these columns, of those that are asked about."""
        needed = self.resend_columns
        return tuple(found for found in self.resends if needed.get(found.revision, "") in ("", *columns))
