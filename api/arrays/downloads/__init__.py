"""A whole group of arrays as one file."""
