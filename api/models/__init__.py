"""Models: the candidates of a job, their learning curves and scores."""
