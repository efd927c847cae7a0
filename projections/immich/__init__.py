"""What Immich itself knows of sessions, read from its database, and what follows from it for ours."""

from typing import Final

PLACE: Final = "in Immich (to sign one out: Account Settings, Authorized Devices)"
"""Where sessions of Immich's begin and end."""
