"""The sync stream and its acks."""
