"""All that can be configured: what may be said, how it is read, and what it means."""
