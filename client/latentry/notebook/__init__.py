"""What a notebook shows: HTML and SVG without scripts, in which all text is escaped."""
