"""What sessions are called: all of an id, and as much of one as people are shown."""

from __future__ import annotations

from typing import Final

SID_CHARS: Final = 64
"""An id is a SHA-256 in hex."""
SHORT_ID_CHARS: Final = 12


def short_id(sid: str) -> str:
    """Return as much of a session's id as logs, lists and answers show; every command takes the start of one."""
    return sid[:SHORT_ID_CHARS]
