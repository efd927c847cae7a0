"""Signing in: what the service asks of an identity provider, and the providers it knows."""
