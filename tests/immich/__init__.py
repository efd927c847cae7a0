"""A database with Immich's schema: the tables and triggers, and rows as Immich would write them."""
