"""The log of all changes: who made, changed, cancelled or deleted what."""
