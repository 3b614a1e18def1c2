"""Rasters: any file GDAL reads, as pixels read window by window, with NaN where not valid."""
