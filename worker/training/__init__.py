"""Train one slice: the training process, its context, packs and checkpoints."""
