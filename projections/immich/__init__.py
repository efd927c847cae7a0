"""What Immich itself knows of sessions, read from its database, and what follows from it for ours."""

from typing import Final

IMMICH: Final = "immich"
"""How sessions of Immich's were authenticated, and by what cause they are asked to start over, in events."""
PLACE: Final = "in Immich (to sign one out: Account Settings, Authorized Devices)"
"""Where sessions of Immich's begin and end."""
