"""Uploads: resumable, in one request, or directly into a bucket."""
