"""Spans of what the store is asked, by command or name of the script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Tracer

from ledger.store.cluster import ClusterStore
from ledger.store.interface import Kinds
from ledger.store.scripts import Arg, Script
from ledger.store.standalone import StandaloneStore
from ops.tracing.spans import Attributes, child

_SCRIPT = "EVALSHA"


def traced_kinds(tracer: Tracer) -> Kinds:
    """Make the kinds of stores whose every command within a request has a span; what jobs ask has none."""

    class TracedStandalone(StandaloneStore):
        async def command(self, *args: Arg, key: bytes) -> Any:
            if not _is_wanted():
                return await super().command(*args, key=key)
            with child(tracer, *_of_command(args)):
                return await super().command(*args, key=key)

        async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
            if not _is_wanted():
                return await super().script(script, keys, args)
            with child(tracer, *_of_script(script)):
                return await super().script(script, keys, args)

        async def each_primary(self, *args: Arg) -> list[Any]:
            if not _is_wanted():
                return await super().each_primary(*args)
            with child(tracer, *_of_command(args)):
                return await super().each_primary(*args)

    class TracedCluster(ClusterStore):
        async def command(self, *args: Arg, key: bytes) -> Any:
            if not _is_wanted():
                return await super().command(*args, key=key)
            with child(tracer, *_of_command(args)):
                return await super().command(*args, key=key)

        async def script(self, script: Script, keys: Sequence[bytes], args: Sequence[Arg]) -> Any:
            if not _is_wanted():
                return await super().script(script, keys, args)
            with child(tracer, *_of_script(script)):
                return await super().script(script, keys, args)

        async def each_primary(self, *args: Arg) -> list[Any]:
            if not _is_wanted():
                return await super().each_primary(*args)
            with child(tracer, *_of_command(args)):
                return await super().each_primary(*args)

    return Kinds(TracedStandalone, TracedCluster)


def _is_wanted() -> bool:
    """Tell whether there is a span that goes on, and is kept, for this to be below of."""
    return trace.get_current_span().is_recording()


def _of_script(script: Script) -> tuple[str, Attributes]:
    attributes = {"db.system.name": "redis", "db.operation.name": _SCRIPT, "db.stored_procedure.name": script.name}
    return f"{_SCRIPT} {script.name}", attributes


def _of_command(args: Sequence[Arg]) -> tuple[str, Attributes]:
    name = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
    return name, {"db.system.name": "redis", "db.operation.name": name}
