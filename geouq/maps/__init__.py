"""Results out: Cloud Optimized GeoTIFF, polygons, pictures, styles."""
