"""Surfaces made of triangles (TIN, polyhedral surfaces), which shapely does not know, as the polygons that they are.

Well-known binary (OGC 06-103r4, table 7): a byte order, a type, then rings of a polygon, or a count of patches each of
which is such a geometry again. A triangle (type 17) is stored just as a polygon (3), a TIN (16) or polyhedral surface
(15) as a multipolygon (6). Heights and measures are expected to be gone.
"""

from __future__ import annotations

import struct

_POLYGON, _MULTIPOLYGON = 3, 6
_SURFACES = {17: _POLYGON, 16: _MULTIPOLYGON, 15: _MULTIPOLYGON}


def flat(wkb: bytes | None) -> bytes | None:
    """Return two-dimensional WKB with surfaces of triangles as polygons; anything else as it is."""
    if wkb is None or len(wkb) < 9 or _type(wkb, 0) not in _SURFACES:
        return wkb
    out = bytearray(wkb)
    _rename(out, 0)
    return bytes(out)


def _order(wkb: bytes | bytearray, at: int) -> str:
    return "<" if wkb[at] else ">"


def _type(wkb: bytes | bytearray, at: int) -> int:
    return int(struct.unpack_from(_order(wkb, at) + "I", wkb, at + 1)[0])


def _rename(wkb: bytearray, at: int) -> int:
    """Give a geometry that starts at ``at``, and its patches, their new type; return where it ends."""
    order, kind = _order(wkb, at), _type(wkb, at)
    new = _SURFACES.get(kind, kind)
    struct.pack_into(order + "I", wkb, at + 1, new)
    (count,) = struct.unpack_from(order + "I", wkb, at + 5)
    at += 9
    for _ in range(count):
        if new == _MULTIPOLYGON:
            at = _rename(wkb, at)
        else:
            at += 4 + 16 * struct.unpack_from(order + "I", wkb, at)[0]
    return at
