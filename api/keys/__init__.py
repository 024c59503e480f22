"""Keys: create, list and revoke them."""
