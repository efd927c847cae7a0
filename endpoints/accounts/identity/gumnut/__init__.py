"""Gumnut as identity provider: who its users are, through its own SDK."""
