"""Answers about places: which are most likely flooded, and how much water all of them hold together.

geouq segment scene.tif -o water.tif --layers mask,uncertainty,votes
python examples/places.py water.tif districts.gpkg
"""

import sys
import tempfile

import geopandas

import geouq


def main(map_path: str, places_path: str) -> None:
    places = geouq.zonal(map_path, places_path, shares=(10, 50))  # a GeoDataFrame: your columns, and the answers
    for number, place in places.sort_values("p_over_50", ascending=False).head(10).iterrows():
        print(
            f"place {number}: {place.water_area_m2 / 1e4:.1f} ha of water "
            f"({place.water_area_m2_p05 / 1e4:.1f} to {place.water_area_m2_p95 / 1e4:.1f}), "
            f"more than half wet with probability {place.p_over_50:.2f}, {place.not_classified:.0%} not known"
        )
    # Intervals of places do not add up; samples do: each is one map, so add within it, then take quantiles.
    with tempfile.TemporaryDirectory() as folder:
        geouq.zonal(map_path, places_path, f"{folder}/answers.gpkg", with_samples=True)
        samples = geopandas.read_file(f"{folder}/answers.gpkg", layer="samples")
    together = samples.groupby("sample")["area_m2"].sum() / 1e4
    low, high = together.quantile([0.05, 0.95])
    print(f"together {together.mean():.1f} ha ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
