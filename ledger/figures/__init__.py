"""Counting what happens on the hot path: plain lists of one worker, which others gather and print."""
