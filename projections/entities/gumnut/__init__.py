"""Libraries at Gumnut as a source of entities: its client within bounds, its feed, its rows."""
