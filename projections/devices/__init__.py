"""Devices as people look for and at them: lists across all users, one device's health, its history over time."""
