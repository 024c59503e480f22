"""What training and inference work with: the process, the claimed slice, its data, its checkpoints, and its reports."""
