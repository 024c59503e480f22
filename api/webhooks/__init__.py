"""Webhooks: URLs that are told when jobs end."""
