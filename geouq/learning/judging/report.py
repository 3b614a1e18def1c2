"""An evaluation as files: one page that needs no other file, and its scores as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from geouq.errors import OutputError
from geouq.files import whole, writing
from geouq.learning.judging.evaluate import Evaluation
from geouq.learning.judging.page import page

PAGE, DATA = "evaluation.html", "evaluation.json"


def check_folder(folder: str | Path, overwrite: bool = False) -> Path:
    """Return where a report can go, before hours are spent on it.

    Raises
    ------
    OutputError : a report is there already, or its folder cannot be made.
    """
    folder = Path(folder)
    if (folder / PAGE).exists() and not overwrite:
        raise OutputError(f"{folder / PAGE} exists: give another folder, or --overwrite")
    if not folder.is_dir() and (folder.exists() or not folder.resolve().parent.is_dir()):
        raise OutputError(
            f"{folder}: cannot be a folder for the report: make the folder above it first, or give another"
        )
    return folder


def write_report(evaluation: Evaluation, folder: str | Path, data: str, overwrite: bool = False) -> Path:
    """Write ``evaluation.html`` and ``evaluation.json`` into a folder, whole or not at all; return the page's path.

    Parameters
    ----------
    data : what the data are called on the page.

    Raises
    ------
    OutputError : a report is there already, or cannot be written.
    """
    folder = check_folder(folder, overwrite)
    texts = {DATA: json.dumps(evaluation.scores, indent=1), PAGE: page(evaluation, data)}
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            with whole(folder / name) as made:
                made.write_text(text, "utf-8")
    return folder / PAGE
