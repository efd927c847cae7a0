"""What happened: events in pages across stream and archive, in words, and the state at any instant."""
