"""The processes of a service: the supervising parent, the arbiter, its workers."""
