"""The embedded catalog: libraries in the ledger's own Redis."""
