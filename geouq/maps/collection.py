"""The maps of many scenes as a STAC Collection (1.1): its Items are those of the maps, and refer back to it.

Links are relative, as in the Items, so that the folder may move. A Collection that is there already and is geouq's gets
the new Items beside those it has; the same Items give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geouq.errors import OutputError
from geouq.files import check_writable, whole

#: of what geouq writes; STAC has no better word for the maps of somebody else
_LICENSE = "other"
_KEYWORD = "geouq"


def write_collection(path: Path, items: Sequence[Path], description: str) -> None:
    """Write the Collection of STAC Items that are there, and make these refer to it.

    Parameters
    ----------
    path : the Collection, ``collection.json``; its id is the folder's name. items : those of ``geouq segment --stac``.

    Raises
    ------
    OutputError : something else has its name, or a file cannot be read or written.
    """
    before = items_before(path)
    name = path.absolute().parent.name or "maps"
    ours = {_relative(item, path): item for item in items}
    kept = {link: path.parent / link for link in before if (path.parent / link).is_file()}
    listed = dict(sorted((kept | ours).items()))
    told = {link: _read(item) for link, item in listed.items()}
    if not told:
        return
    for link, item in ours.items():
        _refer(item, told[link], name, _relative(path, item))
    collection = {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": description,
        "keywords": [_KEYWORD],
        "license": _LICENSE,
        "extent": {
            "spatial": {"bbox": [_bbox([item["bbox"] for item in told.values()])]},
            "temporal": {"interval": [_interval([item["properties"] for item in told.values()])]},
        },
        "links": [
            {"rel": "root", "href": f"./{path.name}", "type": "application/json"},
            *({"rel": "item", "href": link, "type": "application/geo+json"} for link in told),
        ],
    }
    _write(path, collection)


def items_before(path: Path) -> list[str]:
    """Return the links to Items of a Collection of geouq's that is there; OutputError for anything else."""
    check_writable(path)
    if not path.exists():
        return []
    told = _read(path)
    if told.get("type") != "Collection" or _KEYWORD not in told.get("keywords", ()):
        raise OutputError(f"{path} is there, and geouq has not made it: move it away, or name another folder by --stac")
    return [str(link["href"]) for link in told.get("links", ()) if link.get("rel") == "item"]


def _refer(path: Path, item: Mapping[str, Any], name: str, link: str) -> None:
    """Make an Item refer to its Collection, if it does not yet."""
    others = [one for one in item["links"] if one["rel"] not in ("collection", "parent", "root")]
    back = [{"rel": rel, "href": link, "type": "application/json"} for rel in ("root", "parent", "collection")]
    referring = {**item, "collection": name, "links": [*others, *back]}
    if referring != item:
        _write(path, referring)


def _relative(path: Path, seen_from: Path) -> str:
    link = Path(os.path.relpath(path.absolute(), seen_from.absolute().parent)).as_posix()
    return link if link.startswith("../") else f"./{link}"


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read as STAC ({' '.join(str(error).split())}): remove it") from None
    return dict(told) if isinstance(told, dict) else {}


def _write(path: Path, told: Mapping[str, Any]) -> None:
    with whole(path) as made:
        made.write_text(json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _bbox(boxes: Sequence[Sequence[float]]) -> list[float]:
    """Return the bounds of all; all the way round where one crosses ±180°."""
    west, south, east, north = zip(*boxes, strict=True)
    if any(left > right for left, right in zip(west, east, strict=True)):
        return [-180.0, min(south), 180.0, max(north)]
    return [min(west), min(south), max(east), max(north)]


def _interval(properties: Sequence[Mapping[str, Any]]) -> list[str]:
    starts = [one.get("start_datetime") or one["datetime"] for one in properties]
    ends = [one.get("end_datetime") or one["datetime"] for one in properties]
    return [min(starts), max(ends)]
