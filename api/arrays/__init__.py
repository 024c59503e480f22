"""Arrays of data sets and models: lists, slices, and the Zarr objects themselves."""
