"""What a source asks its database, made of a mapping's pieces. Pure."""
