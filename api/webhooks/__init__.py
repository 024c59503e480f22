"""Webhooks: URLs that the service notifies when jobs end."""
