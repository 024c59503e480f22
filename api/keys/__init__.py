"""Keys: who may do what, for whom."""
