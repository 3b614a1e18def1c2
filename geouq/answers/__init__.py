"""Answers: what a map and its samples say about places."""
