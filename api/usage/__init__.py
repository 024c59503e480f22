"""Usage: what tenants use of their quotas."""
