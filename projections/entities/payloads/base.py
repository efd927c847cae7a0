"""The base of all sync payloads."""

from __future__ import annotations

from msgspec import Struct


class Payload(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What stands under `data` in a line: every key is required unless a field says otherwise, and no other is taken.

    Fields are snake_case here and camelCase on the wire.
    """


class Nothing(Payload, frozen=True):
    """The empty payload of SyncAckV1, SyncResetV1 and SyncCompleteV1."""
