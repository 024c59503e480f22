"""Analyses of latents: distances between conditions, behaviour decoded, nearest trials and states."""
