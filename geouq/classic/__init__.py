"""Classic: maps by the methods from before deep learning, which need no model."""
