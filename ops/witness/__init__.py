"""A witness of other ledgers' logs: its key, what it signed, and the server that is asked to sign."""
