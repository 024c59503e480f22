"""Inferences: a trained model run on a data set, or on a few trials at once."""
