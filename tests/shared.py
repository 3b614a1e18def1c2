"""Real data that lie beside the repository, in ../shared or where GEOUQ_SHARED says: tests that need them skip else."""

import os
import shutil
import zipfile
from pathlib import Path

SHARED = Path(os.environ.get("GEOUQ_SHARED", Path(__file__).parents[2] / "shared")) / "data"
#: Sentinel-1 products without their images
SAFE = SHARED / "safe"
PRODUCTS = {
    "2.36": "S1A_IW_GRDH_1SDV_20150203T043109_20150203T043134_004454_00574F_FEC3.SAFE",
    "2.70": "S1A_IW_GRDH_1SDV_20150203T043109_20150203T043134_004454_00574F_6D00.zip",
    "3.31": "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255.SAFE",
    "3.40": "S1B_IW_GRDH_1SDV_20211223T051122_20211223T051147_030148_039993_5371.SAFE",
    "3.52": "S1A_EW_GRDM_1SDH_20221130T014342_20221130T014446_046117_058549_BB15.aws-layout.zip",
    "3.90": "S1C_S4_GRDH_1SDH_20250118T171404_20250118T171421_000638_000538_4B8B.SAFE",
}


def unpacked(name: str, folder: Path) -> Path:
    """A copy of a product that can be written to."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(SAFE / name) as archive:
            archive.extractall(folder)
        (product,) = folder.iterdir()
    else:
        product = folder / name
        for file in (SAFE / name).rglob("*"):
            if file.is_file() and file.suffix != ".tiff":
                (product / file.relative_to(SAFE / name)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, product / file.relative_to(SAFE / name))
    shutil.rmtree(product / "measurement", ignore_errors=True)
    (product / "measurement").mkdir()
    return product
