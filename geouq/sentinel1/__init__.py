"""Sentinel-1: products as ESA delivers them, calibrated, corrected for terrain and put on a map."""
