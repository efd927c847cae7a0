"""Addresses that users or requests are sent to: https, or http where what they name is on this machine."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import SplitResult, urlsplit

MAX_ADDRESS_CHARS: Final = 2048


def problem_of(address: str, *, plain: bool) -> str:
    """Tell what keeps an address from being used, or nothing if it is good; `plain` admits http on loopback."""
    parts = _split(address)
    if parts is None:
        return "is not a URL in plain ASCII"
    if not parts.hostname or "@" in parts.netloc or "#" in address:
        return "must have a host, and no user, password or fragment"
    if parts.scheme == "https" or (plain and is_plain(address)):
        return ""
    return "must begin with https://" + (" (http:// only on this machine, as 127.0.0.1)" if plain else "")


def is_plain(address: str) -> bool:
    """Tell whether an address is http on this machine, without asking a name server."""
    parts = _split(address)
    if parts is None or parts.scheme != "http":
        return False
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _split(address: str) -> SplitResult | None:
    if len(address) > MAX_ADDRESS_CHARS or not address.isascii() or not address.isprintable() or " " in address:
        return None
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError if it is no number
    except ValueError:
        return None
    return parts
