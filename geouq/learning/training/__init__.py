"""Training: losses, the loop, recipes, and from data to a model file."""
