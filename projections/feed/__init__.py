"""One feed of all events: read once a worker for all who follow, across archive and stream, in forms others know."""
