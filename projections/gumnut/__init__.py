"""Gumnut as it is asked: the SDK's client within bounds, and calls in the name of sessions."""

from __future__ import annotations

from projections.gumnut.client import Declined, GumnutUnavailable, Pool
from projections.gumnut.config import GumnutConfig
from projections.gumnut.sessions import GumnutSessions, SignInAgain

__all__ = ["Declined", "GumnutConfig", "GumnutSessions", "GumnutUnavailable", "Pool", "SignInAgain"]
