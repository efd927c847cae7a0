"""Who users are and what they hold: identities, API keys, credentials, the keys of their personal texts."""
