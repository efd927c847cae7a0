"""Bodies, replies, errors, limits and the description of every operation."""
