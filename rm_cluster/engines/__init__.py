"""How a forward pass runs."""
