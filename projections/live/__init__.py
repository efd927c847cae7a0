"""What happens to libraries and sessions, told as it happens to whoever is connected."""
