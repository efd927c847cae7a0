"""Commands about devices and what happened to them."""
