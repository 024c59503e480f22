"""Limits of requests: their sizes, their rates, wrong keys, and the quotas of tenants."""
