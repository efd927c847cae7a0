"""What the supervising parent tells an arbiter, and what it is told by it.

The parent may be of an older version, so both messages only grow.

PERF: apart from the arbiter, with which come gunicorn and uvicorn: the parent needs neither.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final

import msgspec

from ops.settings.settings import Settings

_NOTHING: Final = msgspec.Raw()


class Start(msgspec.Struct, frozen=True):
    """What the parent tells the arbiter."""

    settings: msgspec.Raw
    """Those in use, as JSON, of whichever version they are."""
    redis_url: str
    """The address of the embedded server, else as `settings` has it."""
    factory: str
    """`module:function`, called in each worker with the settings, the Redis URL and the ledger's id.

    It returns the ASGI application.
    """
    parent_pid: int
    ledger_id: str = ""
    """The ledger that the parent found or began: a worker begins none, and serves this one also while it is gone."""
    overrides: dict[str, Any] = {}
    """What the command line said, by the settings' fields."""
    anew: bool = False
    """Whether settings are to be read anew, and checked before anything is served."""
    takes_over: bool = False
    """Whether others serve until this generation is ready: then one that cannot open its store is none."""


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an arbiter and its workers tell the parent."""

    ready: int = 0
    """The process id of a worker that accepts requests as soon as it may."""
    settings: msgspec.Raw = _NOTHING
    """The settings that were read anew, and are good; empty otherwise."""
    refused: str = ""
    """Why there will be no service with them."""


def encode_settings(settings: Settings) -> msgspec.Raw:
    """Return settings as JSON, secrets and all."""
    return msgspec.Raw(msgspec.json.encode(settings, enc_hook=str))


def decode_settings(data: msgspec.Raw) -> Settings:
    """Read what `encode_settings` wrote."""
    return msgspec.json.decode(data, type=Settings, dec_hook=lambda kind, value: kind(value))


def encode_start(start: Start) -> bytes:
    """Return the JSON that `decode_start` reads."""
    return msgspec.json.encode(start, enc_hook=str)


def decode_start(data: bytes) -> Start:
    """Read what the parent wrote."""
    return msgspec.json.decode(data, type=Start)


def tell(told_fd: int, told: Told) -> None:
    """Tell the parent, unless it is gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(told_fd, msgspec.json.encode(told) + b"\n")
