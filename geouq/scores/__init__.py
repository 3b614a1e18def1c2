"""Scores: how right a map of classes is, by a label of the same pixels."""
