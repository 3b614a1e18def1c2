"""Water as one step of a pipeline: lazy xarray in, lazy xarray out, and dask decides when anything is read.

    python examples/pipeline_step.py scene.tif wet_share.tif

Writes which share of each 200 m cell is water, of what the model is sure of. Nothing before `write_cog` computes.
"""

import sys

import odc.geo.xr  # noqa: F401 (gives arrays their `.odc`)

import geouq

CELL = 20  # pixels


def main(scene_path: str, out_path: str) -> None:
    scene = geouq.open_scene(scene_path)  # (band, y, x), in any chunks; NaN = not valid
    scene = scene.rolling(y=3, x=3, center=True, min_periods=1).mean().assign_attrs(scene.attrs)  # a step of yours
    water = geouq.segment(scene, samples=10, layers=("probability", "uncertainty"))
    sure = water["probability"].where(water["uncertainty"] < 0.8)  # NaN where the model does not know
    wet = (sure > 0.5).where(sure.notnull())
    share = wet.coarsen(y=CELL, x=CELL, boundary="pad").mean().astype("float32")
    share.odc.write_cog(out_path, overwrite=True)
    unknown = float(sure.isnull().mean())
    print(f"{out_path}: {float(share.mean()):.1%} of what is known is water; {unknown:.1%} is not known")


if __name__ == "__main__":
    main(*sys.argv[1:])
