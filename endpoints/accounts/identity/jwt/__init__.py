"""Tokens of a backend beside this service, as JSON Web Tokens: who they admit, and how long."""
