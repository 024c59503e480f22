"""Preprocessing of a recording: binning, selection, windows, splits."""
