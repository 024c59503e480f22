"""Files of acquisition systems and spike sorters: Blackrock, Plexon, Neuralynx, NeuroExplorer, Spike2."""
