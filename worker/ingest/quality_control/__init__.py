"""What a recording is like: its report, what looks odd in it, its preview."""
