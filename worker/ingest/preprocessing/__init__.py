"""What is made of a recording: trials put into bins, chosen, cut into windows, split."""
