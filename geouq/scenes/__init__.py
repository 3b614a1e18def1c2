"""Pixels in: any raster or Sentinel-1 scene as one lazy DataArray with its grid, units and validity."""
