"""A device as the Immich app is one: it streams, batches, acks and keeps its own copy of a library.

It knows the server only by its URL and shares no code with it, so that what it accepts is a check of what is served.
"""
