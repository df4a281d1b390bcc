"""Orders: what was asked for, what became of it."""
