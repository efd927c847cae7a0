"""What happened to a session, how it was at any time, and why it does not sync."""
