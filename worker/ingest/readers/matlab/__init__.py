"""MATLAB files, version 4 to 7.3."""
