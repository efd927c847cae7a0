"""The service as a version that knows one format more: `create` is given to `serve` in place of the application."""

from __future__ import annotations

from typing import Final

from ledger.log import formats, store_check
from ops.app import Application, create_app
from ops.settings.settings import Settings

NEWER: Final = formats.FORMAT + 1


def create(settings: Settings, redis_url: str, ledger_id: str) -> Application:
    """Build the application of a newer version, in a worker of its own."""
    setattr(store_check, "FORMAT", NEWER)  # noqa: B010 - a constant in every other process
    setattr(formats.Formats.__init__, "__defaults__", (NEWER,))  # noqa: B010
    return create_app(settings, redis_url, ledger_id)
