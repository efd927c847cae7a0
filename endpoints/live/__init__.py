"""What is sent to clients by itself: wake-ups, over the socket that the app opens."""

from typing import Final

PATH: Final = "/api/socket.io"
MESSAGE_BYTES: Final = 4096
"""What one message of a client may have; those it sends have a few."""
