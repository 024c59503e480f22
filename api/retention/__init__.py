"""Retention: for how long a tenant's old data is kept, and what the next sweep removes."""
