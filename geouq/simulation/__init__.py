"""Simulation: scenes that look like Sentinel-1, with their true water mask."""
