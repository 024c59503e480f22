"""Does it do what the papers say? One experiment per file, each ``python -m benchmarks.paper.NAME [--quick] [--json]``."""
