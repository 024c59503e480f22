"""The HTTP resource of models: the candidates of a job, their learning curves and scores. The network is in `models/`."""
