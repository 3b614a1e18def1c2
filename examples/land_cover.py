"""Five classes of land cover, end to end: chips, a model, its report, its calibration, a map, answers about places.

    python examples/land_cover.py FOLDER

All pixels are simulated: four bands of reflectance at 10 m, of places whose light, soil and crops differ, so that the
classes overlap as they do on the ground. Put your own chips in FOLDER/chips (docs/own_data.md) for the real thing.
"""

import sys
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from scipy.ndimage import gaussian_filter

import geouq
from geouq.learning.training.fit import FitOptions
from geouq.learning.training.recipe import find_recipe

CLASSES = ("water", "built-up", "forest", "crops", "grass")
BANDS = ("B02", "B03", "B04", "B08")
#: reflectance of each class in each band
SPECTRA = np.array(
    [(0.05, 0.05, 0.03, 0.02), (0.12, 0.13, 0.14, 0.18), (0.03, 0.05, 0.03, 0.26), (0.05, 0.08, 0.07, 0.36),
     (0.06, 0.09, 0.08, 0.26)]
)  # fmt: skip


def main(folder: str, steps: int = 300) -> None:
    here = Path(folder)
    make_chips(here / "chips")
    make_scene(here)
    recipe = find_recipe("unet-16", ["arguments.widths=[8, 16, 32]", "size=32", "batch=16"])
    options = FitOptions(steps=int(steps), classes=CLASSES)
    trained = geouq.train_model(here / "chips", recipe, here / "model", options)
    chips = geouq.read_dataset(here / "chips")  # of each split its own: train, validation, test
    model, fit = geouq.calibrate(geouq.Model.load(trained), chips, samples=10)
    model.save(here / "model" / "calibrated.safetensors")
    scores = geouq.evaluate(model, chips, samples=10, most_pictures=0).scores["pooled"]
    print(f"temperature {fit.temperature:.2f}; accuracy {scores['accuracy']:.3f}, mean IoU {scores['miou']:.3f}")
    for name, one in zip(CLASSES, scores["by_class"], strict=True):
        print(f"{name}: F1 {one['f1']:.2f}, IoU {one['iou']:.2f}")
    layers = ("mask", "uncertainty", "confidence", "votes")
    scene = geouq.open_scene(here / "scene.tif", scale="reflectance", factor=1e-4)  # as the manifest says of the chips
    cover = geouq.segment(scene, model, samples=10, layers=layers)
    cover.geouq.to_cog(here / "cover.tif")
    districts = geouq.zonal(here / "cover.tif", here / "districts.gpkg")
    for row in districts.itertuples():
        low, high = row.forest_area_m2_p05 / 1e4, row.forest_area_m2_p95 / 1e4
        print(f"{row.district}: {row.forest_area_m2 / 1e4:.1f} ha of forest ({low:.1f} to {high:.1f})")
    print(f"{geouq.vectorize(here / 'cover.tif', here / 'cover.gpkg')} in cover.gpkg, of every class")


def make_chips(folder: Path, places: int = 12, of_place: int = 5, size: int = 64) -> None:
    """Write 60 chips as images/NAME.tif and labels/NAME.tif, and a manifest that says which places are for what.

    Images hold uint16, reflectance · 10,000, which the manifest says; labels 0 to 4. Places are kept whole.
    """
    rows = ["image,label,split,units,factor"]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for place in range(places):
        cover, light = land_cover(size * of_place, place), np.random.default_rng(place).uniform(0.85, 1.15, 4)
        for number in range(of_place):
            part = cover[:size, size * number : size * (number + 1)]
            name = f"place{place:02}_{number}.tif"
            corner = 500_000 + 20_000 * place + 10 * size * number
            write(folder / "images" / name, pixels(part, light, 100 * place + number), corner)
            write(folder / "labels" / name, part[None], corner)
            split = "train" if place < 5 else "validation" if place < 10 else "test"
            rows.append(f"images/{name},labels/{name},{split},reflectance,0.0001")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def make_scene(folder: Path, size: int = 192, place: int = 99) -> None:
    """Write a scene of a place that no chip is of, and two districts on it."""
    cover = land_cover(size, place)
    write(folder / "scene.tif", pixels(cover, np.ones(4), place), 500_000)
    half = 10 * size / 2
    boxes = [
        shapely.box(500_000 + k * half, 5_400_000 - 10 * size, 500_000 + (k + 1) * half, 5_400_000) for k in (0, 1)
    ]
    districts = geopandas.GeoDataFrame({"district": ["west", "east"]}, geometry=boxes, crs="EPSG:32633")
    districts.to_file(folder / "districts.gpkg")


def land_cover(size: int, seed: int) -> np.ndarray:
    """Return class indices (size, size): lakes, towns and woods of smooth outline among rectangular fields."""
    rng = np.random.default_rng(seed)
    lake, town, wood = (gaussian_filter(rng.normal(size=(size, size)), sigma) for sigma in (9, 5, 7))
    fields = np.kron(rng.integers(0, 2, (-(-size // 12), -(-size // 9))), np.ones((12, 9), int))[:size, :size]
    cover = np.where(fields == 1, 3, 4)
    for index, pattern, share in ((2, wood, 0.3), (1, town, 0.12), (0, lake, 0.15)):
        cover[pattern > np.quantile(pattern, 1 - share)] = index
    return cover.astype(np.uint8)


def pixels(cover: np.ndarray, light: np.ndarray, seed: int) -> np.ndarray:
    """Return reflectance · 10,000, uint16 (4, h, w), with noise and what varies within a class."""
    rng = np.random.default_rng(seed)
    varied = 1 + 0.2 * gaussian_filter(rng.normal(size=(4, *cover.shape)), (0, 3, 3)) / 0.09
    clean = np.moveaxis(SPECTRA[cover], -1, 0) * light[:, None, None] * np.clip(varied, 0.5, 1.5)
    noisy = clean + rng.normal(0, 0.008, clean.shape)
    return np.clip(np.round(1e4 * noisy), 1, 10_000).astype(np.uint16)


def write(path: Path, values: np.ndarray, left: float) -> None:
    """Write a GeoTIFF on a 10 m grid; the bands of an image are named."""
    count, rows, columns = values.shape
    profile = {"count": count, "height": rows, "width": columns, "dtype": values.dtype, "crs": "EPSG:32633"}
    with rasterio.open(path, "w", "GTiff", transform=Affine(10, 0, left, 0, -10, 5_400_000), **profile) as file:
        file.write(values)
        if count == len(BANDS):
            file.descriptions = BANDS


if __name__ == "__main__":
    main(*sys.argv[1:])
