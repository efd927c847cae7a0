"""Who users are: the identity a user signs in with, their e-mail address and name. The only place that holds them."""

from __future__ import annotations

from projections.identities.identities import Identities
from projections.identities.person import (
    EmailTaken,
    IdentityTaken,
    NotRegistered,
    Profile,
    shown_email,
    shown_name,
)

__all__ = ["EmailTaken", "Identities", "IdentityTaken", "NotRegistered", "Profile", "shown_email", "shown_name"]
