"""Gumnut: who its users are, and calls to it in the name of their sessions, through its own SDK."""

from __future__ import annotations

from endpoints.identity.gumnut.config import GumnutConfig
from endpoints.identity.gumnut.provider import GumnutProvider
from endpoints.identity.gumnut.sessions import GumnutSessions, SignInAgain

__all__ = ["GumnutConfig", "GumnutProvider", "GumnutSessions", "SignInAgain"]
