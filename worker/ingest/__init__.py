"""Uploaded files: from the bytes to the arrays of a data set and a report, in a resource-limited subprocess."""
