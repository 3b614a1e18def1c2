"""``geouq doctor``: whether a map can be made here, and if not, what to do."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from geouq.cli.checks import NOTE, OK, PROBLEM, findings, versions
from geouq.cli.show import say, table
from geouq.errors import GeouqError

_MARKS = {OK: "ok     ", NOTE: "note   ", PROBLEM: "PROBLEM"}


@click.command("doctor")
@click.option("--scheduler", metavar="WHERE", help="Ask a cluster too, as for segment: reachable, and alike.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(scheduler: str | None, as_json: bool) -> None:
    """Say whether a map can be made here: versions, data of GDAL and PROJ, devices, memory, space; and try it.

    The exit code is 0 if one can. Nothing is left behind.
    """
    if not as_json:
        say(table(versions()))
    found = []
    for one in findings(scheduler):
        found.append(one)
        if not as_json:
            say(f"{_MARKS[one.state]}  {one.check}: {one.text}" + (f" → {one.fix}" if one.fix else ""))
    problems = [one.check for one in found if one.state == PROBLEM]
    if as_json:
        told = [asdict(one) for one in found]
        say(json.dumps({"a_map_can_be_made": not problems, "versions": versions(), "findings": told}))
    if problems:
        raise GeouqError(f"no map can be made here before this is mended: {', '.join(problems)}")
