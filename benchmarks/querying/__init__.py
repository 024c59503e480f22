"""Parts of the benchmark of queries: stored results, a server, and readers who ask it at once."""
