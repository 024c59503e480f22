"""The page for a browser: static files that speak HTTP to /v1, as any client does. ``api/page.py`` serves them."""
