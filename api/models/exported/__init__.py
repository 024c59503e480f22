"""Files that every export holds as they are; nothing here is imported by the service."""
