"""Learning: chips, losses, training, metrics, baselines."""
