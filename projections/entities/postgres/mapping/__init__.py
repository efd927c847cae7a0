"""Which SQL makes the rows of each entity type, and what the database says of it."""
