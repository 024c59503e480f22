"""Quality control of a recording: its report, warnings and preview."""
