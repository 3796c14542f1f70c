"""What a notebook imports: sweeps as objects, from their file, a dictionary or arrays to the winner as a model."""
