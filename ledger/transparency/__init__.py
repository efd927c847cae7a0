"""The transparency log's arithmetic: signed notes, trees, tiles, leaves and proofs. All of it is pure."""
