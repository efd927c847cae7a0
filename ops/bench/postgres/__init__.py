"""The PostgreSQL source beside bare statements."""
