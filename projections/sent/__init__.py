"""What the last sync streams of a session sent, and how each ended."""
