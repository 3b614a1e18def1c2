"""Segmentation: a scene and a model matched, tile by tile, lazily or as a durable run."""
