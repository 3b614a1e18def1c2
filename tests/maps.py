"""Maps with their samples, and places to ask them about."""

import geopandas
import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from geouq.grid import Roi, pixel_areas
from geouq.maps.bands import map_bands, quantise, vote_bands
from geouq.maps.cog import MapWriter

UTM = Affine(10, 0, 5e5, 0, -10, 5e6)
AFFINES = {
    "pixels": Affine.identity(),
    "north-up": UTM,
    "south-up": Affine(0.1, 0, 3, 0, 0.1, 7),
    "rotated": Affine(9.9, 1.3, 5e5, 1.3, -9.9, 5e6),
}


def polygon(x, y, radii):
    """A star around (x, y): simple, often far from convex."""
    turn = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return shapely.Polygon(np.stack([x + np.array(radii) * np.cos(turn), y + np.array(radii) * np.sin(turn)], 1))


def write_map(folder, *, rows=30, columns=40, samples=20, affine=UTM, crs="EPSG:32633", seed=0, layers=True):
    """A map with its votes; return (path, votes, valid, mask, uncertainty, pixel areas)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    field = np.sin(x / 5) + np.cos(y / 4) + rng.normal(0, 0.1, (rows, columns))
    says = field + rng.normal(0, 0.8, samples)[:, None, None] > 0.3
    valid = rng.random((rows, columns)) > 0.1
    dtype = np.uint32 if samples <= 32 else np.uint64
    votes = sum(says[s].astype(dtype) << dtype(s) for s in range(samples)) * valid
    mask = np.where(valid, says.mean(0) >= 0.5, 255).astype(np.uint8)
    doubt = np.where(valid, np.round(rng.random((rows, columns)), 2), np.nan)
    geobox, path = GeoBox((rows, columns), affine, crs), folder / "m.tif"
    tags = {"GEOUQ_SAMPLES": samples, "GEOUQ_POSITIVE_CLASS": 1, "GEOUQ_SEED": 0}
    planes = {"mask": mask, "uncertainty": doubt, "votes": votes}
    for bands, name in ((map_bands(["mask", "uncertainty"]), "m.tif"), (vote_bands(samples), "m_samples.tif")):
        if name == "m.tif" and not layers:
            continue
        with MapWriter(folder / name, geobox, bands, tags) as writer:
            writer.write(Roi(0, rows, 0, columns), quantise(planes, bands))
            writer.finish()
    area = np.broadcast_to(pixel_areas(geobox, Roi(0, rows, 0, columns)), (rows, columns))
    return path, says & valid, valid, mask, doubt, area


def write_places(path, shapes, crs="EPSG:32633", **columns):
    geopandas.GeoDataFrame(
        columns or {"name": [f"p{i}" for i in range(len(shapes))]}, geometry=shapes, crs=crs
    ).to_file(path, engine="pyogrio")
    return path


def on_map(shapes, affine):
    """Shapes in pixels (column, row) as shapes in coordinates."""
    return [shapely.transform(s, lambda c: np.stack(affine * (c[:, 0], c[:, 1]), 1)) for s in shapes]


SHAPES = [
    shapely.box(3, 2, 21.5, 14.25),
    polygon(20, 15, [3, 9, 2, 7, 5, 8.5, 1]),
    shapely.box(8, 8, 30, 25) - shapely.Point(15, 15).buffer(4),
    shapely.MultiPolygon([shapely.box(1, 1, 5, 5), shapely.box(30.3, 20.1, 33.7, 29)]),
    shapely.box(17.2, 9.1, 17.5, 9.6),  # smaller than a pixel
    shapely.box(-10, 10, 12, 50),  # partly outside
    shapely.box(3, 2, 21.5, 14.25),  # the first again
]
