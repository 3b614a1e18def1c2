"""An evaluation as text for a terminal, as JSON, and as one page that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from geouq.errors import OutputError
from geouq.files import discard, publish, scratch, writing
from geouq.learning.judging import diagrams
from geouq.learning.judging.evaluate import Evaluation

PAGE, DATA = "evaluation.html", "evaluation.json"
#: (heading, key, how it is written)
COLUMNS = (
    ("accuracy", "accuracy", ".3f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("FPR", "false_positive_rate", ".4f"),
    ("F1", "f1", ".3f"),
    ("IoU", "iou", ".3f"),
    ("mIoU", "miou", ".3f"),
    ("ECE", "ece", ".4f"),
    ("Brier", "brier", ".4f"),
    ("NLL", "nll", ".4f"),
    ("AURC", "aurc", ".4f"),
)
_KEYS = ("precision", "recall", "f1", "iou")


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
        made = scratch(folder / PAGE)
        try:
            for name, text in texts.items():
                (made / name).write_text(text, "utf-8")
                publish(made / name, folder / name)
        finally:
            discard(made)
    return folder / PAGE


# --- text ------------------------------------------------------------------------------------------------


def summary(scores: dict[str, Any]) -> str:
    """Return the scores as tables for a terminal."""
    rows = [["", "pixels", f"{scores['model']['positive']} %", *(h for h, _, _ in COLUMNS)]]
    rows += [_row(r["place"], r) for r in scores["places"]]
    if len(scores["datasets"]) > 1:
        rows += [_row(r["dataset"], r) for r in scores["datasets"]]
    rows += [_row("all, pooled", scores["pooled"]), _row("all, one pass", scores["one_pass"])]
    blocks = [_heading(scores), _columns(rows)]
    if scores["baselines"]:
        table = [["on the same pixels", "", "precision", "recall", "F1", "IoU"]]
        table += [[name, details, *numbers] for name, details, *numbers in _methods(scores)]
        blocks.append(_columns(table, left=2))
    return "\n\n".join([*blocks, "\n".join(_facts(scores))])


def _heading(scores: dict[str, Any]) -> str:
    model, chips = scores["model"], scores["chips"]
    places = len({(c["dataset"], c["place"]) for c in chips})
    return (
        f"{model['name']} ({model['hash']}) on {len(chips)} chips of {places} place{'s' if places > 1 else ''}, "
        f"{scores['pooled']['pixels'] / 1e6:.2f} labelled megapixels, "
        f"{scores['samples']} samples, seed {scores['seed']}"
    )


def _row(name: str, r: dict[str, Any]) -> list[str]:
    share = _number(None if r["positive_share"] is None else 100 * r["positive_share"], ".1f")
    return [name, f"{r['pixels']}", share, *(_number(r[key], form) for _, key, form in COLUMNS)]


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def _methods(scores: dict[str, Any]) -> Iterable[list[str]]:
    yield [scores["model"]["name"], "", *(_number(scores["pooled"][k]) for k in _KEYS)]
    yield ["… one pass, dropout off", "", *(_number(scores["one_pass"][k]) for k in _KEYS)]
    for row in scores["baselines"]:
        yield [row["method"], row["details"], *(_number(row[k]) for k in _KEYS)]


def _facts(scores: dict[str, Any]) -> list[str]:
    """Return what no table holds, a line each."""
    pooled, once, noise, area = (scores[k] for k in ("pooled", "one_pass", "noise", "areas"))
    lines = [
        f"calibration: ECE {_number(pooled['ece'], '.4f')} in 15 bins of equal mass, "
        f"{_number(pooled['ece_equal_width'], '.4f')} in 15 of equal width (one pass {_number(once['ece'], '.4f')})",
        f"doubt finds errors: AUROC {_number(pooled['error_auroc'])}, average precision "
        f"{_number(pooled['error_average_precision'])} (one pass {_number(once['error_auroc'])}, "
        f"{_number(once['error_average_precision'])})",
        f"doubt finds added noise: AUROC {_number(noise['auroc'])} "
        f"(without noise {_number(noise['auroc_without_noise'])})",
    ]
    if area:
        lines.append(
            f"areas: the samples' 90 % interval covers the label's area on {area['covered']} of {area['chips']} chips, "
            f"and misses it by at most 1 % of the labelled area on {area['nearly']} more; "
            f"mean width {100 * area['mean_width']:.2f} %"
        )
    agreement = scores["agreement"]
    lines.append(
        f"samples against raters, mean over chips, S = {max(scores['samples'], 1)} by {scores['sampler']}: "
        f"GED² {_number(agreement['ged'])} (unbiased {_number(agreement['ged_unbiased'])}), "
        f"diversity {_number(agreement['diversity'])}, Dice {_number(agreement['dice_raters'])}"
    )
    if scores["skipped"]:
        lines.append(f"left out, no pixel both valid and labelled: {', '.join(scores['skipped'])}")
    return lines


def _columns(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# --- page ------------------------------------------------------------------------------------------------


def page(evaluation: Evaluation, data: str) -> str:
    """Return the page: HTML with all its diagrams and pictures inside."""
    scores = evaluation.scores
    model, pooled, curves = scores["model"], scores["pooled"], scores["curves"]
    title = f"{model['name']} on {data}"
    event = model["positive"] if len(model["classes"]) == 2 else "the chosen class being right"
    error_rate = 1 - pooled["accuracy"]
    parts = [
        f"<h1>{escape(title)}</h1><p class='lead'>{escape(_heading(scores))}.</p>",
        _tiles(scores),
        "<h2>Does it know how sure to be?</h2><div class='figures'>",
        _figure(1, diagrams.reliability(curves, event), _RELIABILITY),
        _figure(2, diagrams.risk_coverage(curves, error_rate), _RISK),
        _figure(3, diagrams.error_detection(curves, error_rate), _DETECTION),
        "</div>",
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in _facts(scores))}</ul>",
        _area_section(scores),
        "<h2>By place</h2>" + _places(scores),
        _baselines(scores),
        _pictures(evaluation),
        _notes(scores),
    ]
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_CSS}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body><main>{''.join(parts)}</main></body></html>\n"


def _tiles(scores: dict[str, Any]) -> str:
    pooled, area = scores["pooled"], scores["areas"]
    wanted = [column for column in COLUMNS if column[0] not in ("accuracy", "mIoU", "FPR")]
    cells = [(name, _number(pooled[key], form)) for name, key, form in wanted]
    cells += [("areas covered", f"{area['covered']} of {area['chips']}")] if area else []
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in cells) + "</dl>"


def _figure(number: int, drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption><b>Figure {number}.</b> {caption}</figcaption></figure>"


def _area_section(scores: dict[str, Any]) -> str:
    if not scores["areas"]:
        return ""
    drawing = diagrams.areas(scores["chips"][:60], scores["model"]["positive"])
    return f"<h2>Areas with an interval</h2>{_figure(4, drawing, _AREAS)}"


def _places(scores: dict[str, Any]) -> str:
    heads = ["place", "dataset", "pixels", f"{scores['model']['positive']} %", *(h for h, _, _ in COLUMNS)]
    rows = [[r["place"], r["dataset"], *_row("", r)[1:]] for r in scores["places"]]
    rows += [
        ["<b>all of it</b>", r["dataset"], *_row("", r)[1:]] for r in scores["datasets"] if len(scores["datasets"]) > 1
    ]
    rows += [
        ["<b>pooled</b>", "all", *_row("", scores["pooled"])[1:]],
        ["one pass", "all", *_row("", scores["one_pass"])[1:]],
    ]
    return _table(heads, rows, 2, rule=len(scores["places"])) + f"<p class='note'>{_SCORES}</p>" + _class_table(scores)


def _class_table(scores: dict[str, Any]) -> str:
    values = scores["pooled"].get("class_iou")
    if not values:
        return ""
    rows = [[escape(name), _number(v)] for name, v in zip(scores["model"]["classes"], values, strict=True)]
    return "<h2>By class</h2>" + _table(["class", "IoU"], rows, 1)


def _baselines(scores: dict[str, Any]) -> str:
    if not scores["baselines"]:
        return ""
    wet = [r for r in scores["places"] if r["positive_share"] and r["positive_share"] > 0.005][:10]
    heads = ["method", "", "precision", "recall", "F1", "IoU", *(escape(r["place"]) for r in wet)]
    rows = [
        [
            "<b>" + escape(scores["model"]["name"]) + "</b>",
            "",
            *list(_methods(scores))[0][2:],
            *(_number(r["iou"]) for r in wet),
        ]
    ]
    rows.append(["one pass, dropout off", "", *list(_methods(scores))[1][2:], *("" for _ in wet)])
    for row, cells in zip(scores["baselines"], list(_methods(scores))[2:], strict=True):
        by_place = [_number(row["places"].get(r["place"])) for r in wet]
        rows.append([escape(cells[0]), escape(cells[1]), *cells[2:], *by_place])
    return f"<h2>Against what needs no model</h2>{_table(heads, rows, 2)}<p class='note'>{_METHODS}</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int, rule: int = -1) -> str:
    """Return a table; the first ``left`` columns hold text, and a line is drawn above row ``rule``."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=l' if i < left else ''}>{c}</{tag}>" for i, c in enumerate(cells))

    body = "".join(f"<tr{' class=sum' if i == rule else ''}>{line(row, 'td')}</tr>" for i, row in enumerate(rows))
    return f"<div class='scroll'><table><thead><tr>{line(heads, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def _pictures(evaluation: Evaluation) -> str:
    if not evaluation.pictures:
        return ""
    spec, scores = evaluation.scores["model"], {c["name"]: c for c in evaluation.scores["chips"]}
    positive = spec["classes"].index(spec["positive"])
    shown = []
    for picture in evaluation.pictures:
        row = scores[picture.name]
        facts = f"IoU {_number(row['iou'])}, ECE {_number(row['ece'], '.4f')}"
        facts += f", {100 * row['positive_share']:.1f} % {spec['positive']}"
        if row.get("best_threshold_iou") is not None:
            facts += f"; best threshold with hindsight: IoU {row['best_threshold_iou']:.3f}"
        images = "".join(
            f"<div><img src='{uri}' alt='{escape(name)}'><span>{escape(name)}</span></div>"
            for name, uri in diagrams.panels(picture, spec["classes"], positive)
        )
        head = f"<h3>{escape(picture.name)} <small>{escape(facts)}</small></h3>"
        shown.append(f"<section>{head}<div class='row'>{images}</div></section>")
    left = len(evaluation.scores["chips"]) - len(shown)
    note = f"<p class='note'>{len(shown)} chips evenly spread over all; {left} are not shown.</p>" if left else ""
    return f"<h2>Chips</h2>{_legend(spec)}{note}{''.join(shown)}"


def _legend(spec: dict[str, Any]) -> str:
    def swatch(colour: str, text: str) -> str:
        return f"<span class='key'><i style='background:{colour}'></i>{escape(text)}</span>"

    positive = spec["positive"]
    keys = [swatch(diagrams.HIT, f"right: {positive}"), swatch(diagrams.RIGHT, "right: other")]
    keys += [swatch(diagrams.MISSED, f"{positive} missed"), swatch(diagrams.FALSE, f"false {positive}")]
    if len(spec["classes"]) > 2:
        keys = [swatch(diagrams.RIGHT, "right"), swatch(diagrams.FALSE, "wrong")]
    ramp = "<span class='key'><i class='ramp'></i>uncertainty 0 … 1</span>"
    return f"<p class='legend'>{''.join(keys)}{ramp}{swatch(diagrams.NOTHING, 'no label or not classified')}</p>"


def _notes(scores: dict[str, Any]) -> str:
    model = scores["model"]
    lines = [
        f"Model {model['name']}, hash {model['hash']}: {', '.join(model['bands'])} in {model['units']}; "
        f"temperature {model['temperature']:g}, threshold {model['threshold']:g}.",
        f"Trained on: {model['training'] or 'the model does not say.'} "
        "Scores on places that a model was trained on are no evidence of what it does elsewhere.",
        "All scores count every pixel that is valid and labelled, once. Calibration and risk come from histograms of "
        "10,000 cells over 0..1.",
    ]
    return "<h2>How this was measured</h2>" + "".join(f"<p class='note'>{escape(line)}</p>" for line in lines)


_RELIABILITY = (
    "Reliability. Pixels are put into 15 bins of equal width by predicted probability; a point shows their mean "
    "prediction and how often it came true. On the diagonal, 70 % means 70 of 100; below it the model claims too much, "
    "above it too little. Bars: how many pixels have which probability."
)
_RISK = (
    "Risk and coverage. Keep only the most certain pixels, by the entropy of the mean of samples or by the largest "
    "softmax of one pass: how many of those kept are wrong? AURC is the area below the curve."
)
_DETECTION = (
    "Finding errors by doubt. Flag all pixels above an uncertainty: how many of the errors are flagged, and how many "
    "of those flagged are errors?"
)
_AREAS = (
    "Bars: 5 to 95 % of the area over the samples. Dots: the area in the label, black where the bar covers it. "
    "Samples share the model's errors, so bars can be too narrow for them."
)
_SCORES = (
    "FPR: share of the rest that is called the class. mIoU: mean over the classes that occur, in label or map. ECE: in "
    "15 bins of equally many pixels. Brier: mean squared error of the probability. NLL: in nats. AURC: as in Figure 2. "
    "A dash: nothing to divide by."
)
_METHODS = (
    "Same pixels throughout, pooled; then the IoU of each place with more than 0.5 % of the class. <i>Hindsight</i>: "
    "chosen with the labels, which nobody mapping a new place has. A method of one band is shown on the band on which "
    "it does best, which is hindsight too. All but thresholds and plain Otsu see 5-pixel means of linear power. Chips "
    "larger than 1024 pixels are given to them in parts of that size."
)
_CSS = """
body{margin:0;background:#fff;color:#222}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI","Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;font-weight:600;margin:0}
h2{font-size:19px;font-weight:600;margin:40px 0 12px;border-bottom:1px solid #ddd;padding-bottom:4px}
h3{font-size:15px;margin:22px 0 6px}h3 small{font-weight:400;color:#666;margin-left:8px}
.lead{color:#555;margin:6px 0 20px}.note,figcaption{color:#555;font-size:13px;line-height:1.45}
dl{display:flex;flex-wrap:wrap;gap:10px;margin:0}
dl div{flex:1 1 92px;border:1px solid #ddd;border-radius:4px;padding:8px 10px}
dt{font-size:12px;color:#666}dd{margin:0;font-size:19px;font-variant-numeric:tabular-nums;white-space:nowrap}
.figures{display:grid;grid-template-columns:repeat(3,1fr);gap:20px}
figure{margin:0;max-width:720px}figure svg{width:100%;height:auto}
ul{padding-left:18px;font-size:14px}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:12.5px;font-variant-numeric:tabular-nums;width:100%}
th{font-weight:600;border-bottom:1.5px solid #444;padding:4px 7px;text-align:right;vertical-align:bottom}
td{padding:3px 7px;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}.l{text-align:left}
.sum td{border-top:1px solid #444}
.row{display:flex;gap:6px}.row div{flex:1 1 0;min-width:0}
.row img{width:100%;display:block;border:1px solid #ddd;box-sizing:border-box}
.row span{font-size:12px;color:#555}section{break-inside:avoid}
.legend{font-size:13px}.key{margin-right:16px;white-space:nowrap}
.key i{display:inline-block;width:12px;height:12px;border:1px solid #bbb;margin-right:5px;vertical-align:-1px}
.key i.ramp{width:60px;background:linear-gradient(90deg,#440154,#3b528b,#21918c,#5ec962,#fde725)}
@media(max-width:800px){.figures{grid-template-columns:1fr}.row{flex-wrap:wrap}.row div{flex-basis:30%}}
@media print{main{padding:0;max-width:none}h2{break-after:avoid}}
"""
