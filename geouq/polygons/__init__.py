"""Polygons: a map as shapes with attributes."""
