"""Small Sentinel-1 GRD products for tests: a radar on a circular orbit over the ellipsoid, written as SAFE.

The geometry is that of a real pass, and consistent: state vectors, zero-Doppler times, slant ranges, geolocation
grid and range polynomials all follow from one orbit, so that a range-Doppler solver finds the grid again.
"""

import hashlib
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

LIGHT, EARTH_RATE, GRAVITY = 299_792_458.0, 7.2921151467e-5, 3.986004418e14
SEMI_MAJOR, SEMI_MINOR = 6_378_137.0, 6_356_752.314245
START = np.datetime64("2021-01-19T03:16:53.799379", "ns")
#: (processor version, how its noise file looks)
ZERO_NOISE, OLD_NOISE, NEW_NOISE, NO_AZIMUTH = "002.36", "002.70", "003.31", "003.90"


@dataclass(frozen=True)
class Spec:
    """What to build: at about 40.4 N, 12.5 E, unless shifted.

    ``spacing`` is the pixel side in m; ``ipf`` one of the four above; ``layout`` esa or aws; ``shift`` degrees
    to move east.
    """

    name: str = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255"
    lines: int = 60
    pixels: int = 90
    polarisations: tuple[str, ...] = ("VV", "VH")
    spacing: float = 100.0
    ipf: str = NEW_NOISE
    layout: str = "esa"
    ascending: bool = False
    shift: float = 0.0
    product_type: str = "GRD"
    product_class: str = "S"
    grid: tuple[int, int] = (4, 6)
    noise_removed: bool = False

    @property
    def mission(self) -> str:
        return self.name[:3]

    @property
    def mode(self) -> str:
        return self.name[4:6]

    @property
    def interval(self) -> float:
        """Seconds between lines: the radar's track moves at 6.8 km/s on the ground."""
        return self.spacing / 6800


# --- geometry --------------------------------------------------------------------------------------------


def orbit_state(seconds: np.ndarray, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Earth-fixed position and velocity, (n, 3) each, of a circular sun-synchronous orbit at 693 km."""
    seconds = np.atleast_1d(np.asarray(seconds, float))
    radius, inclination = 7_071_000.0, np.radians(98.18)
    rate = np.sqrt(GRAVITY / radius**3)
    angle = np.radians(40.0 if spec.ascending else 140.0) + rate * seconds
    along = np.stack([np.cos(angle), np.sin(angle) * np.cos(inclination), np.sin(angle) * np.sin(inclination)], 1)
    ahead = np.stack([-np.sin(angle), np.cos(angle) * np.cos(inclination), np.cos(angle) * np.sin(inclination)], 1)
    node = (15.0 if spec.ascending else 190.0) + spec.shift
    turn = np.radians(node) - EARTH_RATE * seconds
    cosine, sine, zero = np.cos(turn), np.sin(turn), np.zeros_like(turn)
    spin = np.array([[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, zero + 1]]).transpose(2, 0, 1)
    position = np.einsum("nij,nj->ni", spin, radius * along)
    velocity = np.einsum("nij,nj->ni", spin, radius * rate * ahead) - np.cross([0, 0, EARTH_RATE], position)
    return position, velocity


def slant_range(pixel: np.ndarray, spec: Spec) -> np.ndarray:
    """Slant range in m to pixel centres: 800 km at the first, then by the sine of an incidence angle that grows."""
    ground = np.asarray(pixel, float) * spec.spacing
    return 800_000.0 + 0.505 * ground + 5.3e-7 * ground**2


def geolocate(line: float, pixel: float, spec: Spec, height: float = 0.0) -> np.ndarray:
    """Earth-fixed point to the right of the track at zero Doppler and slant range, ``height`` above the ellipsoid."""
    position, velocity = (state[0] for state in orbit_state(line * spec.interval, spec))
    distance = float(slant_range(pixel, spec))
    down, right = -position / np.linalg.norm(position), np.cross(velocity, position)
    point = position + distance * (0.82 * down + 0.57 * right / np.linalg.norm(right))
    axes = np.array([SEMI_MAJOR + height, SEMI_MAJOR + height, SEMI_MINOR + height])
    for _ in range(20):
        sight = point - position
        misses = [sight @ sight - distance**2, sight @ velocity, ((point / axes) ** 2).sum() - 1]
        slopes = [2 * sight, velocity, 2 * point / axes**2]
        point = point - np.linalg.solve(np.array(slopes), np.array(misses))
    return point


def degrees(point: np.ndarray) -> tuple[float, float]:
    """Latitude and longitude on WGS 84 of a point on the ellipsoid."""
    ratio = (SEMI_MAJOR / SEMI_MINOR) ** 2
    latitude = np.degrees(np.arctan2(point[2] * ratio, np.hypot(point[0], point[1])))
    return float(latitude), float(np.degrees(np.arctan2(point[1], point[0])))


def angles(line: float, point: np.ndarray, spec: Spec) -> tuple[float, float]:
    """Incidence angle on the ellipsoid and elevation angle off nadir, degrees."""
    position = orbit_state(line * spec.interval, spec)[0][0]
    sight = (position - point) / np.linalg.norm(position - point)
    up = point / np.array([SEMI_MAJOR, SEMI_MAJOR, SEMI_MINOR]) ** 2
    incidence = np.degrees(np.arccos(sight @ up / np.linalg.norm(up)))
    return float(incidence), float(np.degrees(np.arccos(sight @ position / np.linalg.norm(position))))


def grid_points(spec: Spec) -> list[dict[str, object]]:
    """The points of the geolocation grid, at height 0, by the names of the annotation."""
    out: list[dict[str, object]] = []
    for line in np.linspace(0, spec.lines - 1, spec.grid[0]).round():
        for pixel in np.linspace(0, spec.pixels - 1, spec.grid[1]).round():
            point = geolocate(line, pixel, spec)
            latitude, longitude = degrees(point)
            incidence, elevation = angles(line, point, spec)
            out.append(
                dict(
                    azimuthTime=time(line * spec.interval),
                    slantRangeTime=2 * slant_range(pixel, spec) / LIGHT,
                    line=int(line),
                    pixel=int(pixel),
                    latitude=latitude,
                    longitude=longitude,
                    height=0.0,
                    incidenceAngle=incidence,
                    elevationAngle=elevation,
                )
            )
    return out


def time(seconds: float) -> str:
    """UTC, as annotations write it, to the microsecond."""
    return str((START + np.timedelta64(round(seconds * 1e9), "ns")).astype("datetime64[us]"))


# --- XML -------------------------------------------------------------------------------------------------


def tag(name: str, content: object, **attributes: object) -> str:
    """One element; a dict becomes children, an array numbers with their count."""
    if isinstance(content, dict):
        content = "".join(tag(key, value) for key, value in content.items())
    elif isinstance(content, np.ndarray):
        attributes["count"] = len(content)
        content = " ".join(str(v) if content.dtype.kind == "i" else f"{v:.15e}" for v in content)
    elif isinstance(content, float):
        content = f"{content:.15e}"
    written = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"


def listed(name: str, items: list[str]) -> str:
    return tag(name, "".join(items), count=len(items))


def header(polarisation: str, spec: Spec) -> str:
    return tag(
        "adsHeader",
        dict(
            missionId=spec.mission,
            productType=spec.product_type,
            polarisation=polarisation,
            mode=spec.mode,
            swath=spec.mode,
            startTime=time(0),
            stopTime=time((spec.lines - 1) * spec.interval),
            absoluteOrbitNumber=36201,
            missionDataTakeId=278224,
            imageNumber="001",
        ),
    )


def annotation(polarisation: str, spec: Spec) -> str:
    """Return the annotation file of one image."""
    end = (spec.lines - 1) * spec.interval
    moments = np.arange(-60, end + 61, 10.0)
    states = [
        tag(
            "orbit",
            dict(
                time=time(moment),
                frame="Earth Fixed",
                position=dict(zip("xyz", map(float, position), strict=True)),
                velocity=dict(zip("xyz", map(float, velocity), strict=True)),
            ),
        )
        for moment, position, velocity in zip(moments, *orbit_state(moments, spec), strict=True)
    ]
    ground = np.linspace(0, spec.pixels * spec.spacing, 200)
    slant = slant_range(ground / spec.spacing, spec)
    back = np.polynomial.Polynomial.fit(slant - 8e5, ground, 6).convert().coef
    conversions = [
        tag(
            "coordinateConversion",
            dict(
                azimuthTime=time(moment),
                slantRangeTime=2 * 8e5 / LIGHT,
                sr0=8e5,
                srgrCoefficients=back,
                gr0=0.0,
                grsrCoefficients=np.array([8e5, 0.505, 5.3e-7]),
            ),
        )
        for moment in (-1.0, end / 2)
    ]
    general = dict(
        productInformation=dict(
            **{"pass": "Ascending" if spec.ascending else "Descending"},
            projection="Ground Range",
            radarFrequency=5.405000454334350e9,
        )
    )
    image = dict(
        productFirstLineUtcTime=time(0),
        productLastLineUtcTime=time(end),
        slantRangeTime=2 * 8e5 / LIGHT,
        pixelValue="Detected",
        outputPixels="16 bit Unsigned Integer",
        rangePixelSpacing=spec.spacing,
        azimuthPixelSpacing=spec.spacing,
        azimuthTimeInterval=spec.interval,
        numberOfSamples=spec.pixels,
        numberOfLines=spec.lines,
        incidenceAngleMidSwath=38.7,
    )
    points = [tag("geolocationGridPoint", point) for point in grid_points(spec)]
    processing = dict(thermalNoiseCorrectionPerformed=str(spec.noise_removed).lower())
    general_xml = "".join(tag(key, value) for key, value in general.items()) + listed("orbitList", states)
    return document(
        "product",
        header(polarisation, spec)
        + tag("generalAnnotation", general_xml)
        + tag("imageAnnotation", dict(imageInformation=image, processingInformation=processing))
        + tag("geolocationGrid", listed("geolocationGridPointList", points))
        + tag("coordinateConversion", listed("coordinateConversionList", conversions)),
    )


def document(root: str, content: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{content}</{root}>\n'


def vector_lines(spec: Spec) -> np.ndarray:
    """Lines of the vectors: every 20, the last beyond the image, as the processor has them."""
    return np.arange(0, spec.lines + 20, 20)


def vector_pixels(spec: Spec) -> np.ndarray:
    return np.unique(np.append(np.arange(0, spec.pixels, 8), spec.pixels - 1))


def constants(line: float, pixels: np.ndarray, quantity: str) -> np.ndarray:
    """A of the calibration tables at one line; beta0 does not vary, as in real products."""
    if quantity == "betaNought":
        return np.full(len(pixels), 474.0)
    return {"sigmaNought": 665.0, "gamma": 618.0}[quantity] - 0.35 * pixels + 0.02 * line


def calibration(polarisation: str, spec: Spec) -> str:
    """Return the calibration file of one image."""
    pixels = vector_pixels(spec)
    vectors = [
        tag(
            "calibrationVector",
            dict(azimuthTime=time(line * spec.interval), line=int(line), pixel=pixels)
            | {name: constants(line, pixels, name) for name in ("sigmaNought", "betaNought", "gamma")}
            | dict(dn=np.full(len(pixels), 474.0)),
        )
        for line in vector_lines(spec)
    ]
    information = tag("calibrationInformation", dict(absoluteCalibrationConstant=1.0))
    return document("calibration", header(polarisation, spec) + information + listed("calibrationVectorList", vectors))


def noise_power(line: float, pixels: np.ndarray) -> np.ndarray:
    """Thermal noise in DN² along a line: a valley, as the antenna pattern makes it, 0 at the last pixel."""
    power = 400.0 + 0.1 * (pixels - pixels[-1] / 2) ** 2 + line
    power[-1] = 0
    return power


def noise(polarisation: str, spec: Spec) -> str:
    """Return the noise file of one image, in the form of the processor version."""
    old = spec.ipf in (ZERO_NOISE, OLD_NOISE)
    vectors = []
    for i, line in enumerate(vector_lines(spec)[:-1]):
        pixels = vector_pixels(spec)
        pixels = np.delete(pixels, 3) if i % 2 and not old else pixels  # vectors of unequal length
        power = noise_power(line, pixels) * (spec.ipf != ZERO_NOISE)
        content = {"azimuthTime": time(line * spec.interval), "line": int(line), "pixel": pixels}
        content["noiseLut" if old else "noiseRangeLut"] = power
        vectors.append(tag("noiseVector" if old else "noiseRangeVector", content))
    if old:
        return document("noise", header(polarisation, spec) + listed("noiseVectorList", vectors))
    blocks = [] if spec.ipf == NO_AZIMUTH else azimuth_blocks(spec)
    content = listed("noiseRangeVectorList", vectors) + listed("noiseAzimuthVectorList", blocks)
    return document("noise", header(polarisation, spec) + content)


def azimuth_blocks(spec: Spec) -> list[str]:
    """Three swaths side by side; the second is in two parts, and its list ends before it does."""
    thirds, half, last = [0, spec.pixels // 3, 2 * spec.pixels // 3, spec.pixels], spec.lines // 2, spec.lines - 1
    extents = [(0, last, 0), (0, half - 1, 1), (half, last, 1), (0, last, 2)]
    out = []
    for top, bottom, swath in extents:
        lines = np.arange(top, bottom + 1, 7)
        content = dict(
            swath=f"{spec.mode}{swath + 1}",
            firstAzimuthLine=top,
            firstRangeSample=thirds[swath],
            lastAzimuthLine=bottom,
            lastRangeSample=thirds[swath + 1] - 1,
            line=lines,
            noiseAzimuthLut=1 + 0.1 * swath + 0.2 * np.cos(lines / 9),
        )
        out.append(tag("noiseAzimuthVector", content))
    return out


def manifest(spec: Spec, files: dict[str, bytes]) -> str:
    """Return the manifest of a product: what it is, and what files it names."""
    corners = [point for point in grid_points(spec) if point["pixel"] in (0, spec.pixels - 1)]
    ring = [corners[0], corners[1], corners[-1], corners[-2]]
    footprint = " ".join(f"{c['latitude']:.6f},{c['longitude']:.6f}" for c in ring)
    wraps = [
        f'<safe:processing name="GRD Post Processing"><safe:facility country="Nowhere">'
        f'<safe:software name="Sentinel-1 IPF" version="{spec.ipf}"/></safe:facility></safe:processing>',
        f"<safe:platform><safe:familyName>SENTINEL-1</safe:familyName><safe:number>{spec.mission[2]}</safe:number>"
        f"<safe:instrument><safe:familyName abbreviation='SAR'>Synthetic Aperture Radar</safe:familyName>"
        f"</safe:instrument></safe:platform>",
        "<s1sarl1:standAloneProductInformation>"
        + "".join(
            f"<s1sarl1:transmitterReceiverPolarisation>{p}</s1sarl1:transmitterReceiverPolarisation>"
            for p in spec.polarisations
        )
        + f"<s1sarl1:productClass>{spec.product_class}</s1sarl1:productClass>"
        f"<s1sarl1:productType>{spec.product_type}</s1sarl1:productType></s1sarl1:standAloneProductInformation>",
        f"<safe:frameSet><safe:frame><safe:footPrint><gml:coordinates>{footprint}</gml:coordinates>"
        "</safe:footPrint></safe:frame></safe:frameSet>",
    ]
    objects = "".join(
        f'<dataObject><byteStream size="{len(data)}"><fileLocation locatorType="URL" href="./{name}"/>'
        f'<checksum checksumName="MD5">{hashlib.md5(data).hexdigest()}</checksum></byteStream></dataObject>'
        for name, data in files.items()
    )
    metadata = "".join(f"<metadataObject><xmlData>{wrap}</xmlData></metadataObject>" for wrap in wraps)
    spaces = {
        "gml": "http://www.opengis.net/gml",
        "xfdu": "urn:ccsds:schema:xfdu:1",
        "safe": "http://www.esa.int/safe/sentinel-1.0",
        "s1sarl1": "http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1",
    }
    declared = " ".join(f'xmlns:{key}="{value}"' for key, value in spaces.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<xfdu:XFDU {declared}><metadataSection>{metadata}</metadataSection>'
        f"<dataObjectSection>{objects}</dataObjectSection></xfdu:XFDU>\n"
    )


# --- files -----------------------------------------------------------------------------------------------


def image_name(polarisation: str, spec: Spec) -> str:
    """Name of an image's files without their ending."""
    if spec.layout == "aws":
        return f"{spec.mode}-{polarisation}".lower()
    parts = spec.name.lower().split("_")
    number = spec.polarisations.index(polarisation) + 1
    return f"{parts[0]}-{parts[1]}-grd-{polarisation}-{'-'.join(parts[4:8])}-{number:03d}".lower()


def numbers(spec: Spec, seed: int = 0) -> np.ndarray:
    """DN (bands, lines, pixels) uint16: a dark river through land, with 4.4 looks of speckle and a zero border."""
    rng = np.random.default_rng(seed)
    line, pixel = np.mgrid[: spec.lines, : spec.pixels]
    river = np.abs(pixel - spec.pixels / 2 - 6 * np.sin(line / 9)) < spec.pixels / 10
    out = []
    for level in np.array([1.0, 0.55, 0.5, 0.3])[: len(spec.polarisations)]:
        power = np.where(river, 40.0, 220.0) ** 2 * level**2 * rng.gamma(4.4, 1 / 4.4, river.shape)
        out.append(np.clip(np.sqrt(power).round(), 1, 65535).astype(np.uint16))
    dn = np.stack(out)
    dn[:, :, :3] = dn[:, :2] = 0
    return dn


def contents(spec: Spec) -> dict[str, bytes]:
    """All XML files of a product by their paths in it, without the manifest."""
    files: dict[str, bytes] = {}
    for polarisation in spec.polarisations:
        name = image_name(polarisation, spec)
        files[f"annotation/{name}.xml"] = annotation(polarisation, spec).encode()
        files[f"annotation/calibration/calibration-{name}.xml"] = calibration(polarisation, spec).encode()
        files[f"annotation/calibration/noise-{name}.xml"] = noise(polarisation, spec).encode()
    return files


def build(folder: Path, spec: Spec = Spec(), dn: np.ndarray | None = None, **changes) -> Path:
    """Write a product and return its folder. ``dn``: (bands, lines, pixels) uint16; ``changes`` to the spec."""
    spec = replace(spec, **changes)
    files = contents(spec)
    product = folder / f"{spec.name}.SAFE"
    for path in ("annotation/calibration", "measurement"):
        (product / path).mkdir(parents=True)
    for name, data in files.items():
        (product / name).write_bytes(data)
    dn = numbers(spec) if dn is None else dn
    for layer, polarisation in zip(dn, spec.polarisations, strict=True):
        write_measurement(product / f"measurement/{image_name(polarisation, spec)}.tiff", layer)
    (product / "manifest.safe").write_text(manifest(spec, files))
    return product


def write_measurement(path: Path, dn: np.ndarray, **profile) -> None:
    """Write DN as a measurement file: 16-bit strips."""
    profile = dict(driver="GTiff", count=1, dtype=dn.dtype, blockysize=1) | profile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", height=dn.shape[0], width=dn.shape[1], **profile) as dataset:
            dataset.write(dn, 1)


def zip_product(product: Path, path: Path | None = None, junk: bool = False) -> Path:
    """Zip a product's folder, without entries for folders; ``junk``: with what a Mac adds."""
    path = path or product.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(product.rglob("*")):
            if file.is_file():
                inside = str(file.relative_to(product.parent))
                archive.write(file, inside)
                if junk:
                    archive.writestr(f"__MACOSX/{Path(inside).parent}/._{file.name}", b"\0\5\26\7")
    return path
