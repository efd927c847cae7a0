"""Replacing what serves while it serves: generations of arbiters, and parents that hand over to others."""
