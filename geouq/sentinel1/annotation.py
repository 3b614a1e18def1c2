"""Sentinel-1 annotation files: what the processor wrote about one image, as plain values and arrays.

A small reader of the XML described in ESA's "Sentinel-1 Product Specification" (S1-RS-MDA-52-7441). Lines and
pixels are the product's own: counted from 0, with integers at pixel *centres* (the first sample of the first line
is at line 0, pixel 0, the last one at lines - 1, pixels - 1). GDAL puts integers at pixel corners: its column is
this pixel + 0.5, and the ground control points in measurement files are half a pixel off by that convention.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from geouq.errors import SceneError


@dataclass(frozen=True, eq=False)
class GeolocationGrid:
    """Where image points lie on the ground: (n, m) arrays, n rows of equal line by m columns of equal pixel.

    ``latitude`` and ``longitude`` in degrees (WGS 84), ``height`` above the ellipsoid in m, ``incidence_angle`` in
    degrees, ``azimuth_time`` datetime64[ns] (UTC, zero Doppler), ``slant_range_time`` the two-way travel time in s.
    ``line`` and ``pixel`` are float64, integers at pixel centres.
    """

    line: np.ndarray
    pixel: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    height: np.ndarray
    incidence_angle: np.ndarray
    azimuth_time: np.ndarray
    slant_range_time: np.ndarray


@dataclass(frozen=True, eq=False)
class Orbit:
    """State vectors in the Earth-fixed frame: ``time`` (k,) datetime64[ns], (k, 3) ``position`` m, ``velocity`` m/s."""

    time: np.ndarray
    position: np.ndarray
    velocity: np.ndarray


@dataclass(frozen=True, eq=False)
class CoordinateConversion:
    """Polynomials between slant and ground range, in force from ``azimuth_time`` until the next one's.

    Ground range = sum of ``srgr[i]`` * (slant range - ``slant_range_origin``)^i, slant range = sum of ``grsr[i]`` *
    (ground range - ``ground_range_origin``)^i, both in m, ground range counted from the centre of pixel 0.
    """

    azimuth_time: np.datetime64
    slant_range_origin: float
    srgr: np.ndarray
    ground_range_origin: float
    grsr: np.ndarray


@dataclass(frozen=True, eq=False)
class Annotation:
    """What an annotation file says of one image; see the module for lines and pixels.

    ``pass_direction`` is Ascending or Descending, times are datetime64[ns], ``line_interval`` in s, spacings in
    m, ``slant_range_time`` (two-way, to pixel 0) in s. ``noise_removed``: the processor has already subtracted
    thermal noise.
    """

    mission: str
    mode: str
    polarisation: str
    pass_direction: str
    start: np.datetime64
    stop: np.datetime64
    orbit_number: int
    lines: int
    pixels: int
    first_line_time: np.datetime64
    last_line_time: np.datetime64
    line_interval: float
    range_spacing: float
    azimuth_spacing: float
    slant_range_time: float
    noise_removed: bool
    grid: GeolocationGrid
    orbit: Orbit
    conversions: tuple[CoordinateConversion, ...]


@contextmanager
def xml_errors(name: str, what: str) -> Iterator[None]:
    """Turn what a damaged XML file makes the readers raise into one SceneError line."""
    try:
        yield
    except ET.ParseError as error:
        raise SceneError(f"{name}: is no {what} ({error}): copy or download the product again") from error
    except (LookupError, ValueError) as error:
        reason = " ".join(str(error).split()).strip("'\"")
        raise SceneError(f"{name}: {reason}: it is no {what}, or a damaged one: download the product again") from error


def parse(data: bytes, root: str) -> ET.Element:
    """Return the root element, which must be called ``root``; within ``xml_errors``.

    Raises
    ------
    ET.ParseError, ValueError : not XML; entities of its own, which no product has; another root element.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("defines entities of its own")
    element = ET.fromstring(data)
    if element.tag.rpartition("}")[2] != root:
        raise ValueError(f"starts with <{element.tag.rpartition('}')[2][:40]}>, not with <{root}>")
    return element


def text(element: ET.Element, path: str) -> str:
    """Text of the element at a path; LookupError if there is none."""
    found = (element.findtext(path) or "").strip()
    if not found:
        raise LookupError(f"has no {path}")
    return found


def number(element: ET.Element, path: str) -> float:
    """Number at a path; LookupError if no such element exists, ValueError if its text is not a finite number."""
    return float(_finite(np.array(float(text(element, path))), path))


def numbers(element: ET.Element, path: str) -> np.ndarray:
    """Numbers at a path, float64, one at least; LookupError or ValueError otherwise."""
    return _finite(np.array(text(element, path).split(), dtype=float), path)


def _finite(values: np.ndarray, path: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(f"holds numbers in {path} that are not finite")
    return values


def _time(element: ET.Element, path: str) -> np.datetime64:
    return np.datetime64(text(element, path), "ns")


def _column(elements: list[ET.Element], path: str) -> np.ndarray:
    return np.array([number(element, path) for element in elements])


def _times(elements: list[ET.Element], path: str) -> np.ndarray:
    return np.array([_time(element, path) for element in elements], dtype="datetime64[ns]")


def read_annotation(data: bytes, name: str) -> Annotation:
    """Read an annotation file.

    Parameters
    ----------
    data : the file's content. name : what to call it in errors.

    Raises
    ------
    SceneError : if it is not the annotation of a detected ground range (GRD) image, or damaged.
    """
    with xml_errors(name, "Sentinel-1 annotation"):
        root = parse(data, "product")
        if text(root, "adsHeader/productType") != "GRD":
            raise SceneError(f"{name}: is {text(root, 'adsHeader/productType')}, not GRD: give a GRD product")
        return _annotation(root)


def _annotation(root: ET.Element) -> Annotation:
    header, image = "adsHeader/", "imageAnnotation/imageInformation/"
    general = "generalAnnotation/productInformation/"
    removed = root.findtext("imageAnnotation/processingInformation/thermalNoiseCorrectionPerformed") or "false"
    return Annotation(
        mission=text(root, header + "missionId"),
        mode=text(root, header + "mode"),
        polarisation=text(root, header + "polarisation").upper(),
        pass_direction=text(root, general + "pass").capitalize(),
        start=_time(root, header + "startTime"),
        stop=_time(root, header + "stopTime"),
        orbit_number=int(number(root, header + "absoluteOrbitNumber")),
        lines=int(number(root, image + "numberOfLines")),
        pixels=int(number(root, image + "numberOfSamples")),
        first_line_time=_time(root, image + "productFirstLineUtcTime"),
        last_line_time=_time(root, image + "productLastLineUtcTime"),
        line_interval=number(root, image + "azimuthTimeInterval"),
        range_spacing=number(root, image + "rangePixelSpacing"),
        azimuth_spacing=number(root, image + "azimuthPixelSpacing"),
        slant_range_time=number(root, image + "slantRangeTime"),
        noise_removed=removed.strip().lower() == "true",
        grid=_grid(root),
        orbit=_orbit(root),
        conversions=_conversions(root),
    )


def _grid(root: ET.Element) -> GeolocationGrid:
    points = root.findall("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    line, pixel = _column(points, "line"), _column(points, "pixel")
    order = np.lexsort((pixel, line))
    rows = len(np.unique(line))
    shape = (rows, len(points) // max(rows, 1))
    regular = min(shape) > 1 and shape[0] * shape[1] == len(points)
    if regular:
        line, pixel = line[order].reshape(shape), pixel[order].reshape(shape)
        regular = bool((line == line[:, :1]).all() and (pixel == pixel[0]).all() and (np.diff(pixel[0]) > 0).all())
    if not regular:
        raise ValueError(f"has {len(points)} geolocation grid points that form no grid")

    def shaped(values: np.ndarray) -> np.ndarray:
        return values[order].reshape(shape)

    return GeolocationGrid(
        line=line,
        pixel=pixel,
        latitude=shaped(_column(points, "latitude")),
        longitude=shaped(_column(points, "longitude")),
        height=shaped(_column(points, "height")),
        incidence_angle=shaped(_column(points, "incidenceAngle")),
        azimuth_time=shaped(_times(points, "azimuthTime")),
        slant_range_time=shaped(_column(points, "slantRangeTime")),
    )


def _orbit(root: ET.Element) -> Orbit:
    states = root.findall("generalAnnotation/orbitList/orbit")
    position, velocity = (
        np.array([[number(state, f"{what}/{axis}") for axis in "xyz"] for state in states])
        for what in ("position", "velocity")
    )
    return Orbit(_times(states, "time"), position.reshape(-1, 3), velocity.reshape(-1, 3))


def _conversions(root: ET.Element) -> tuple[CoordinateConversion, ...]:
    found = root.findall("coordinateConversion/coordinateConversionList/coordinateConversion")
    return tuple(
        CoordinateConversion(
            azimuth_time=_time(one, "azimuthTime"),
            slant_range_origin=number(one, "sr0"),
            srgr=numbers(one, "srgrCoefficients"),
            ground_range_origin=number(one, "gr0"),
            grsr=numbers(one, "grsrCoefficients"),
        )
        for one in found
    )
