"""Whether an installation beside Immich is as it must be: settings, database, and the proxy in front of both."""
