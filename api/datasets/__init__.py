"""Data sets: upload, synthesis, report."""
