"""Neurodata Without Borders, version 2."""
