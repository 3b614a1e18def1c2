"""What was found on places left out, for a terminal, and as a model's card in Markdown.

What stands between the card's two marks is made from ``folds.json``; what people write around them stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geouq.learning.judging import left_out_classes_text as of_more
from geouq.learning.judging import left_out_text as of_two
from geouq.learning.judging.left_out_text import heading
from geouq.learning.judging.summary import columns, confusion_rows

BEGIN, END = "<!-- scores -->", "<!-- end of scores -->"
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def summary(found: dict[str, Any]) -> str:
    """Return what was found, for a terminal."""
    tables, told, _ = _parts(found)
    fitted = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in found["fitted"].items())
    blocks = [heading(found), *(columns([heads, *rows]) for heads, rows in tables), "\n".join(told)]
    return "\n\n".join(blocks) + f"\nfitted on all: {fitted}"


def card(found: dict[str, Any], before: str = "") -> str:
    """Return the card; of one that was there ``before``, all but what stands between the marks stays."""
    text = f"{BEGIN}\n{_scores(found)}\n{END}"
    head, begun, rest = before.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    return f"{head}{text}{tail}" if begun and ended else f"{_about(found['model'])}{text}\n"


def _about(model: dict[str, Any]) -> str:
    """Return what the model file says of itself."""
    lines = [f"# {model['name']}", model["description"], f"Bands {', '.join(model['bands'])} in {model['units']}."]
    lines += [f"Licence: {model['licence']}" if model["licence"] else "", model["training"], "## On places left out"]
    return "".join(f"{line}\n\n" for line in lines if line)


def _scores(found: dict[str, Any]) -> str:
    """Return tables and facts."""
    tables, told, places = _parts(found)
    escaped = (fact.replace("* ", "\\* ", 1) for fact in told)
    lines = "\n".join(f"- {fact}" for fact in escaped)
    return "\n\n".join([f"{heading(found)}.", *(_table(*table) for table in tables), lines, _table(*places)])


def _parts(found: dict[str, Any]) -> tuple[list[Table], list[str], Table]:
    """Return the tables, what no table holds, and the table by place."""
    if "decide" in found:
        table = of_two.HEADS, list(of_two.decision_rows(found))
        return [table], of_two.facts(found, found["model"]["positive"]), of_two.place_rows(found)
    names = found["model"]["classes"]
    confusion = ["% of the label's pixels, mapped as", "pixels", *names], confusion_rows(found)
    return (
        [(of_more.HEADS, list(of_more.class_rows(found))), confusion],
        of_more.facts(found),
        of_more.place_rows(found),
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in line] for line in (heads, *rows)]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])
