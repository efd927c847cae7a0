"""Entities of libraries that lie in a PostgreSQL database, told by a mapping from its tables to entity types."""
