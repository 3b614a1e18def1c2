"""Many scenes, one after the other: each is a run of its own, and one that fails does not stop the others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geouq.cli.options import models_chosen
from geouq.cli.show import say, told_in
from geouq.errors import GeouqError, InputError
from geouq.uploads import is_url

if TYPE_CHECKING:
    from geouq.scenes.batch import OneOfMany

#: from what open_scene takes, and options: a summary, and the area of a pixel
MapScene = Callable[[Any, dict[str, Any]], tuple[dict[str, Any], float]]
#: outputs beside the map, which a batch puts into folders, and how the files in them end
_BESIDE = {"vector": ".gpkg", "preview": ".png", "zarr": ".zarr", "stac": ".json"}
_LISTS = (".txt", ".json")


def is_batch(scenes: tuple[str, ...], output: str | None) -> bool:
    """True if maps go into a folder, or scenes are listed in a file."""
    listed = any(name.lower().endswith(_LISTS) and os.path.isfile(name) for name in scenes)
    return bool(scenes) and (listed or (output is not None and _is_folder(output)))


def map_batch(options: dict[str, Any], map_scene: MapScene) -> None:
    """Map all scenes that are named, and print a table of what became of them.

    Raises
    ------
    InputError : what is asked of all of them cannot be done.
    GeouqError : a scene has no map.
    """
    if options["vv"] or options["vh"]:
        raise InputError("--vv and --vh are of one scene: give a folder of many by SCENE")
    from geouq.scenes.batch import scenes_named

    found, notes = scenes_named(options["scenes"], options["mosaic"])
    folders = {name: _folder(options[name]) for name in ("output", *_BESIDE) if options[name]}
    folders.setdefault("output", ".")

    models = models_chosen(options["model"], options["weights"], options["tta"])  # one that cannot be loaded stops all
    subject = models[0].spec.legend.subject
    for folder in folders.values():
        if not is_url(folder):
            os.makedirs(folder, exist_ok=True)
    collection = _collection(options, folders)
    if not options["quiet"]:
        count = f"{len(found)} scene{'s' * (len(found) > 1)}"
        for line in (count, *(f"{one.name}: {one.what}" for one in found), *notes):
            say(f"geouq: {line}", err=True)
    told: list[dict[str, Any]] = []
    pixels: list[float] = []
    for number, one in enumerate(found, 1):
        if not options["quiet"]:
            say(f"geouq: [{number}/{len(found)}] {one.name}", err=True)
        summary, pixel = _mapped(one, options, folders, subject, map_scene)
        told.append({"scene": one.name} | summary)
        pixels.append(pixel)
    failed = [row["scene"] for row in told if "error" in row]
    if collection is not None:
        from geouq.maps.collection import write_collection

        files = (Path(file) for row in told for file in row.get("files", ()))
        items = [file for file in files if file.suffix == ".json"]
        write_collection(collection, items, f"Maps of {subject}, and how sure they are")
    if options["as_json"]:
        say(json.dumps({"scenes": told, "failed": len(failed)}))
    elif not options["quiet"]:
        say(_table(told, pixels))
    if failed:
        raise GeouqError(f"{len(failed)} of {len(told)} scenes have no map; the same command tries these alone again")


def _collection(options: dict[str, Any], folders: Mapping[str, str]) -> Path | None:
    """Return where the Collection of a batch's STAC Items goes; None where these are not asked for, or in a store."""
    if options["stac"] is None or is_url(folders["output"]):
        return None
    from geouq.maps.collection import items_before

    path = Path(folders.get("stac", folders["output"])) / "collection.json"
    items_before(path)
    return path


def _is_folder(path: str) -> bool:
    return path.endswith(("/", os.sep)) or os.path.isdir(path)


def _folder(name: str) -> str:
    """Return a folder for maps, which may be missing itself, or the URL of one."""
    folder = Path(name)
    if is_url(name):
        return name.rstrip("/")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: of several scenes, name a folder")
    if not folder.parent.is_dir():
        raise InputError(f"{folder}: its folder {folder.parent} does not exist: make it first")
    return str(folder)


def _mapped(
    one: OneOfMany, options: dict[str, Any], folders: Mapping[str, str], subject: str, map_scene: MapScene
) -> tuple[dict[str, Any], float]:
    """Map a scene; return its summary, or the error that it ended in, and the area of a pixel (``MapScene``)."""
    name = f"{one.name}_{subject}"
    own = {what: f"{folders[what]}/{name}{end}" for what, end in _BESIDE.items() if what in folders}
    try:
        return map_scene(one.source, options | own | {"output": f"{folders['output']}/{name}.tif"})
    except GeouqError as error:
        text = " ".join(str(error).split())
        say(f"geouq: {one.name} has no map: {text}", err=True)
        return {"error": text, "exit_code": error.exit_code}, 1.0


def _table(told: list[dict[str, Any]], pixels: list[float]) -> str:
    """Return a line a scene (and class): the area and its interval, what is not classified, what became of it."""
    undecided = any("undecided_area_m2" in row for row in told)
    heads = ["scene", "area", "5–95 %", *(["undecided"] if undecided else []), "not classified", ""]
    rows = [heads]
    for row, pixel in zip(told, pixels, strict=True):
        if "error" in row:
            rows.append([row["scene"], *[""] * (len(heads) - 2), f"no map: {row['error']}"])
            continue
        unit, scale = told_in(row["crs"], pixel)
        missing, state = f"{row['not_classified_percent']:g} %", "already there" if row["already_there"] else "mapped"
        state += " (see the warning)" if row["warnings"] else ""
        share = [_share(row)] if undecided else []
        first = [row["scene"], *share, missing, state]
        for one in row.get("by_class", [row]):  # of more than two classes a line each
            low, high = one["area_m2_p05"], one["area_m2_p95"]
            interval = "" if low is None else f"{low / scale:.6g}–{high / scale:.6g} {unit}"
            name = f"{one['name']} " if "by_class" in row else ""
            rows.append([first[0], f"{name}{one['area_m2'] / scale:.6g} {unit}", interval, *first[1:]])
            first = [""] * len(first)
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads) - 1)] + [0]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _share(row: Mapping[str, Any]) -> str:
    """Return which share of what is classified a map leaves undecided."""
    valid = row["valid_area_m2"]
    return f"{100 * row['undecided_area_m2'] / valid:.3g} %" if valid and "undecided_area_m2" in row else ""
