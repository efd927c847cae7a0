"""Projections against their events: the fold of a partition, verify, rebuild."""
