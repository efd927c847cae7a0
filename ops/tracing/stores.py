"""Spans of what the store is asked, by the name of the command or script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from opentelemetry import trace
from opentelemetry.trace import Tracer

from ledger.store.cluster import ClusterStore
from ledger.store.interface import Kinds
from ledger.store.scripts import Arg, Script
from ledger.store.standalone import StandaloneStore
from ops.tracing.spans import Attributes, child

_SCRIPT: Final = "EVALSHA"
_SYSTEM: Final = "redis"
"""Valkey speaks the same, and the conventions have no other name for it."""


def traced_kinds(tracer: Tracer) -> Kinds:
    """Make the kinds of stores whose every command within a request has a span; what jobs ask has none."""

    class TracedStandalone(_Spans, StandaloneStore):
        spans = tracer

    class TracedCluster(_Spans, ClusterStore):
        spans = tracer

    return Kinds(TracedStandalone, TracedCluster)


class _Spans:
    """Goes before a store, and does what that does within a span."""

    spans: ClassVar[Tracer]

    async def command(self, *args: Arg, key: bytes) -> Any:
        if not _is_wanted():
            return await super().command(*args, key=key)  # type: ignore[misc] # the store's own
        with child(self.spans, *_of_command(args)):
            return await super().command(*args, key=key)  # type: ignore[misc]

    async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
        if not _is_wanted():
            return await super().script(script, keys, args)  # type: ignore[misc]
        with child(self.spans, *_of_script(script)):
            return await super().script(script, keys, args)  # type: ignore[misc]

    async def packed(self, script: Script, key: bytes, call: bytes) -> Any:
        if not _is_wanted():
            return await super().packed(script, key, call)  # type: ignore[misc]
        with child(self.spans, *_of_script(script)):
            return await super().packed(script, key, call)  # type: ignore[misc]

    async def each_primary(self, *args: Arg) -> list[Any]:
        if not _is_wanted():
            return await super().each_primary(*args)  # type: ignore[misc, no-any-return]
        with child(self.spans, *_of_command(args)):
            return await super().each_primary(*args)  # type: ignore[misc, no-any-return]


def _is_wanted() -> bool:
    """Tell whether there is a span for this to be below of, which goes on and is kept."""
    return trace.get_current_span().is_recording()


def _of_script(script: Script) -> tuple[str, Attributes]:
    attributes = {"db.system.name": _SYSTEM, "db.operation.name": _SCRIPT, "db.stored_procedure.name": script.name}
    return f"{_SCRIPT} {script.name}", attributes


def _of_command(args: Sequence[Arg]) -> tuple[str, Attributes]:
    name = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
    return name, {"db.system.name": _SYSTEM, "db.operation.name": name}
