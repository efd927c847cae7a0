"""The monitor: what the store and the archive hold, and what was signed before, checked against the log."""
