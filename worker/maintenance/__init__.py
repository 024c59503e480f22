"""The maintenance loop: recovery, garbage collection, webhooks."""
