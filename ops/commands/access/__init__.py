"""Commands about who may do what: users, keys, credentials."""
