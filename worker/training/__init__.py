"""Train the models of a slice: `train` reads top-down, from the loaded data to the report."""
