"""A model's card: what it is, and what was found on places left out, in Markdown.

What stands between the two marks is made from ``folds.json``; what people write around them stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geouq.learning.judging.left_out_text import HEADS, decision_rows, facts, heading, place_rows

BEGIN, END = "<!-- scores -->", "<!-- end of scores -->"


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
    heads, rows = place_rows(found)
    told = (fact.replace("* ", "\\* ", 1) for fact in facts(found, found["model"]["positive"]))
    lines = "\n".join(f"- {fact}" for fact in told)
    return "\n\n".join([f"{heading(found)}.", _table(HEADS, list(decision_rows(found))), lines, _table(heads, rows)])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in line] for line in (heads, *rows)]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])
