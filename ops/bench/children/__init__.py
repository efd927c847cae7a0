"""Processes of their own that a benchmark starts: loads, readers, jobs whose memory is measured."""
