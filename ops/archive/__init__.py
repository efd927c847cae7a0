"""Archiving: the job that seals what is old into segments and trims it from the streams."""
