"""HDF5 files: of LFADS and lfads-torch, of the Neural Latents Benchmark, and of any other layout."""
