"""The console at /console: pages for people, made here, that need no build step and nothing from elsewhere."""
