"""Backups: how they lie in object storage, reading a ledger into one, and reading one back."""
