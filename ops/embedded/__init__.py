"""The embedded durable server of a data folder."""
