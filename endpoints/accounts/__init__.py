"""Signing in and out, and whose request it is: credentials, cookies, origins, sessions, users."""
