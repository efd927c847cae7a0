"""How a PostgreSQL database is reached: its address as operators write it, and the making of one connection."""
