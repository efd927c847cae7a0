"""What auditors are given: a checker of proofs that needs nothing of this project, and a page on the format."""
