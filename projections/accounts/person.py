"""What is known of a person, brought into one form: pure."""

from __future__ import annotations

from hashlib import sha256
from typing import Final
from uuid import UUID, uuid5

import msgspec

from ledger.errors import InvalidInput, Refused

MAX_EMAIL_CHARS: Final = 254
"""What fits into the path of an SMTP envelope: RFC 5321, 4.5.3.1.3, without its brackets."""
MAX_NAME_CHARS: Final = 200
MAX_SUBJECT_CHARS: Final = 255
_USERS: Final = UUID("0e25f5bb-b708-4d97-8bb5-73ff36cb7b5b")
_JOINERS: Final = frozenset("\u200c\u200d")  # invisible, but scripts and emoji are spelled with them


class NotRegistered(Refused):
    """Nobody has this identity, and it may not register itself."""

    def __init__(self) -> None:
        super().__init__("OAuth authentication failed")


class EmailTaken(Refused):
    """The e-mail address is another user's: linking by address would let its holder take that user over."""

    def __init__(self) -> None:
        super().__init__("OAuth authentication failed")


class IdentityTaken(Refused):
    """The identity is another user's."""

    def __init__(self) -> None:
        super().__init__("This account is already linked to another user")


class Profile(msgspec.Struct, frozen=True):
    """Who a user is. `name` is empty where none is known."""

    user: str
    library: str
    email: str
    name: str
    admin: bool

    def __repr__(self) -> str:
        """Show nothing personal."""
        return f"Profile(user={self.user!r})"


def shown_name(user: str, profile: Profile | None) -> str:
    """Name a user as others see them: by their id where no name is known."""
    return (profile.name if profile is not None else "") or user


def shown_email(user: str, profile: Profile | None) -> str:
    """Tell a user's e-mail address; one that nothing reaches where none is known."""
    return (profile.email if profile is not None else "") or (user if "@" in user else f"{user}@localhost")


def identity_digest(issuer: str, subject: str) -> str:
    """Name an identity without telling it: SHA-256 hex; raises InvalidInput for a subject nobody may have."""
    if not (1 <= len(subject) <= MAX_SUBJECT_CHARS and subject.isprintable()):
        raise InvalidInput([(("subject",), f"must have 1 to {MAX_SUBJECT_CHARS} printable characters")])
    return sha256(_identity(issuer, subject).encode()).hexdigest()


def user_for(issuer: str, subject: str) -> str:
    """Derive the user of an identity that is linked to none: always the same one."""
    return str(uuid5(_USERS, _identity(issuer, subject)))


def clean_email(email: str) -> str:
    """Bring an e-mail address into the form it is compared in; raises InvalidInput."""
    email = email.strip().lower()
    if not (1 <= len(email) <= MAX_EMAIL_CHARS and email.isprintable() and " " not in email):
        raise InvalidInput([(("email",), f"must have 1 to {MAX_EMAIL_CHARS} printable characters without a space")])
    return email


def email_digest(email: str) -> str:
    """Name an e-mail address, in the form it is compared in, without telling it: SHA-256 hex."""
    return sha256(email.encode()).hexdigest()


def clean_name(name: str | None) -> str:
    """Bring a name into one line of printable characters, cut to a bound; empty where nothing is left."""
    if not name:
        return ""
    words = " ".join(name[: 4 * MAX_NAME_CHARS].split())
    return "".join(char for char in words if char.isprintable() or char in _JOINERS)[:MAX_NAME_CHARS].strip()


def _identity(issuer: str, subject: str) -> str:
    return f"{issuer}\0{subject}"
