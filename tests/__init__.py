"""The tests. A regular package: some distributions install a package `tests` of their own, and ours must come first."""
