"""A model of Immich beside this service: its tables, its own sync rules, ours on the same tables, a phone of both."""
