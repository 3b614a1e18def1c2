"""Damage for files of every kind that geouq reads (tests.fuzz): blind, and in what is inside.

A file that is refused at its first byte tests one line of code. So model files keep a right length and JSON, archives
are zipped again, tables stay tables, and JSON stays JSON, most of the time. All is drawn from the generator given.
"""

from __future__ import annotations

import json
import math
import random
import re
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

ABSURD = (
    "0", "-1", "1", "1e308", "-1e308", "nan", "inf", "99999999999999999999", "0.0000001", "", "null", "true", "[]",
    '"x"', "1e-320", "2147483648", "-9223372036854775809", "\x1b[31m", "../../etc/passwd", "NaN", "{}",
)  # fmt: skip
ENTITIES = (
    '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;"><!ENTITY z "&y;&y;&y;&y;&y;&y;">]>',
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd">',
)
#: values that fit their field, and are odd
ODD = (0, 1, 2, 3, 7, 16, 64, 0.5, -0.5, 1e-30, 1e30, 255, 65536)
WORDS = (
    "dB",
    "reflectance",
    "rgb",
    "unet",
    "ssn",
    "zero",
    "refuse",
    "dropout",
    "water",
    "land",
    "VV",
    "VH",
    "all",
    "a$_b",
)
DEEP = "[" * 100_000 + "]" * 100_000


def mutate(data: bytes, rng: random.Random, name: str) -> bytes:
    """Return ``data`` changed in one to four places, in a way that suits the kind of file."""
    for ending, (share, inside) in INSIDE.items():
        if name.endswith(ending) and rng.random() < share:
            return inside(data, rng)
    text = name.endswith((".xml", ".vrt", ".csv", ".json", ".geojson", ".safe", ".toml"))
    steps: list[Callable[[bytes, random.Random], bytes]] = [flip, cut, repeat, insert]
    if text:
        steps += [number, number, number, swap, drop_line, entity]
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(steps)(data, rng)
    return data


# --- blind


def flip(data: bytes, rng: random.Random) -> bytes:
    """Change one to eight bytes, every other time near the beginning, where headers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if out:
            out[rng.randrange(min(len(out), rng.choice((400, len(out)))))] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Keep the beginning."""
    return data[: rng.choice((0, 1, rng.randrange(len(data) + 1)))]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """Write a piece twice."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in "ab")
    return data[:b] + data[a:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Put random bytes somewhere."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 64))) + data[at:]


def number(data: bytes, rng: random.Random) -> bytes:
    """Replace a number or a quoted word by an absurd one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?(e[+-]?\d+)?|\"[^\"]{0,40}\"", data))
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(ABSURD).encode() + data[match.end() :]


def swap(data: bytes, rng: random.Random) -> bytes:
    """Swap two words."""
    words = re.split(rb"(\W+)", data)
    a, b = rng.randrange(len(words)), rng.randrange(len(words))
    words[a], words[b] = words[b], words[a]
    return b"".join(words)


def drop_line(data: bytes, rng: random.Random) -> bytes:
    """Leave out a line, or write it twice."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at : at + 1] = [] if rng.random() < 0.5 else [lines[at]] * 2
    return b"\n".join(lines)


def entity(data: bytes, rng: random.Random) -> bytes:
    """Put a document type with entities before everything, and use them somewhere."""
    at = rng.randrange(len(data) + 1)
    return rng.choice(ENTITIES).encode() + data[:at] + rng.choice((b"", b"&x;", b"&z;")) + data[at:]


# --- inside


def value_like(value: Any, rng: random.Random) -> Any:
    """Return another value for one in JSON, a table or a spec: half the time of its own kind."""
    if rng.random() < 0.5:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return rng.choice((*ODD, value * 2, -value, value + 1))
        if isinstance(value, str):
            return rng.choice((*WORDS, value * 2, value[: len(value) // 2]))
        if isinstance(value, list) and value:
            return rng.choice((value * 2, value[1:], value[::-1], [value]))
    text = rng.choice(ABSURD)
    try:
        return json.loads(text.replace("nan", "NaN").replace("inf", "Infinity"))
    except ValueError:
        return text


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a JSON value with each of its keys."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places_in(inner)


def mutate_value(value: Any, rng: random.Random) -> None:
    """Change, leave out or double something in a JSON value, in place."""
    for _ in range(rng.choice((1, 1, 3))):
        places = list(places_in(value))
        if not places:
            return
        where, key = rng.choice(places)
        choice = rng.random()
        if choice < 0.1:
            del where[key]
        elif choice < 0.15 and isinstance(where, dict):
            where[f"{key}_x"] = where[key]
        elif choice < 0.2 and isinstance(where, list):
            where.append(where[key])
        else:
            where[key] = value_like(where[key], rng)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change values in a JSON file; now and then nest one deeper than any parser goes."""
    value = json.loads(data)
    if rng.random() < 0.03:
        return re.sub(rb"\[", DEEP.encode(), data, count=1)
    mutate_value(value, rng)
    return json.dumps(value).encode()


def mutate_model(data: bytes, rng: random.Random) -> bytes:
    """Change the spec of a model file, its length set right, or its weights."""
    (length,) = struct.unpack("<Q", data[:8])
    header, weights = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    if rng.random() < 0.2:
        for _ in range(rng.choice((1, 50))):
            at = rng.randrange(len(weights) // 4) * 4
            weights[at : at + 4] = struct.pack("<f", rng.choice((math.nan, math.inf, -math.inf, 3e38, 1e-40, 0.0)))
        return data[: 8 + length] + bytes(weights)
    if rng.random() < 0.2:
        mutate_value(header, rng)
    else:
        spec = json.loads(header["__metadata__"]["geouq"])
        mutate_value(spec, rng)
        header["__metadata__"]["geouq"] = json.dumps(spec) if rng.random() < 0.98 else DEEP
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(weights)


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    """Change a file in an archive and zip it again; now and then with a file that is none of its own."""
    with tempfile.TemporaryFile() as packed:
        packed.write(data)
        with zipfile.ZipFile(packed) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(sorted(members))
    members[name] = mutate(members[name], rng, name)
    if rng.random() < 0.2:
        members[rng.choice(("../evil.tif", "/etc/evil", "a" * 300, name.upper()))] = b"x"
    if rng.random() < 0.1:
        del members[rng.choice(sorted(members))]
    with tempfile.TemporaryFile() as packed:
        with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        packed.seek(0)
        return packed.read()


def mutate_tables(data: bytes, rng: random.Random) -> bytes:
    """Change cells of an SQLite file (a GeoPackage, a ledger), or leave out a table or its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tables"
        path.write_bytes(data)
        with closing(sqlite3.connect(path)) as file:
            found = dict(file.execute("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'trigger')"))
            for trigger in (name for name, kind in found.items() if kind == "trigger"):
                file.execute(f'DROP TRIGGER "{trigger}"')  # they call functions that only GDAL has
            names = [
                name for name, kind in found.items() if kind == "table" and not name.startswith(("sqlite", "rtree"))
            ]
            for _ in range(rng.choice((1, 1, 3)) if names else 0):  # the file that a run locks has none
                try:
                    _change_table(file, rng.choice(sorted(names)), rng)
                except sqlite3.Error:  # the table's rules do not let it
                    continue
            file.commit()
        return path.read_bytes()


def _change_table(file: sqlite3.Connection, name: str, rng: random.Random) -> None:
    choice = rng.random()
    rows = file.execute(f'SELECT rowid, * FROM "{name}"').fetchall()  # noqa: S608 (a name out of the file itself)
    if choice < 0.05:
        file.execute(f'DROP TABLE "{name}"')
    elif choice < 0.1:
        file.execute(f'DELETE FROM "{name}"')  # noqa: S608
    elif rows:
        columns = [column[1] for column in file.execute(f'PRAGMA table_info("{name}")')]
        row, at = rng.choice(rows), rng.randrange(len(columns))
        value = row[1 + at]
        new = flip(value, rng) if isinstance(value, bytes) and rng.random() < 0.7 else value_like(value, rng)
        new = json.dumps(new) if isinstance(new, dict | list) else new
        new = float(new) if isinstance(new, int) and abs(new) >= 1 << 63 else new
        file.execute(f'UPDATE "{name}" SET "{columns[at]}" = ? WHERE rowid = ?', (new, row[0]))  # noqa: S608


#: ending → how often, and how, what is inside is changed
INSIDE: dict[str, tuple[float, Callable[[bytes, random.Random], bytes]]] = {
    ".safetensors": (0.8, mutate_model),
    ".zip": (0.8, mutate_zip),
    ".pt": (0.7, mutate_zip),
    ".gpkg": (0.8, mutate_tables),
    ".sqlite": (0.7, mutate_tables),
    ".json": (0.6, mutate_json),
    ".geojson": (0.6, mutate_json),
}
