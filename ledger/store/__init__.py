"""How Redis is spoken to: one server or a cluster behind one interface, commands and scripts."""
