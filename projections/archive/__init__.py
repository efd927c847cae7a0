"""The archive: sealed segments of partitions in object storage, and reading across them and the hot streams."""
