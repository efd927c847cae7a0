"""What stores and pools of connections are made with, as the settings say: as they are, or traced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ledger.store.interface import Kinds
from ops.settings.settings import Settings


def store_kinds(settings: Settings) -> Kinds:
    """Tell of which classes stores are made."""
    if not settings.traces:
        return Kinds()
    from ops.tracing.spans import tracer
    from ops.tracing.stores import traced_kinds

    return traced_kinds(tracer())


def statement_watch(settings: Settings) -> Callable[[Any], Awaitable[None]] | None:
    """Give what a pool calls with each connection to PostgreSQL that is made; None where it calls nothing."""
    if not settings.traces:
        return None
    from ops.tracing.spans import tracer
    from ops.tracing.sql import statement_spans

    return statement_spans(tracer())
