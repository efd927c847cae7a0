"""Backing up, restoring, and moving what is in object storage."""
