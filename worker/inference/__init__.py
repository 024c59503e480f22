"""Run a trained model: latents of a job, batch and online inference, scores and diagnostics, export."""
