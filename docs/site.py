"""What turns this repository's own pages into the site that `make docs` builds; mkdocs runs it, users need not read it.

README.md is the first page, and every other page stays where it is in the repository: links that work there are
rewritten to where the pages are on the site, and links to source become names. Docstrings are numpydoc with
`name : text` on one line, which griffe would read as a type, and Returns in free text: both are made to
fit here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from textwrap import indent
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

import geouq

ROOT = Path(__file__).parents[1]
#: pages outside docs/: where they are in the repository, and where on the site
PAGES = {
    "README.md": "index.md",
    "DESIGN.md": "design.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGES.md": "changes.md",
    "benchmarks/README.md": "benchmarks.md",
}
CARDS = {f"geouq/weights/{card.name}": f"models/{card.name}" for card in (ROOT / "geouq/weights").glob("*.md")}
EXAMPLES = {
    f"examples/{path.name}": f"examples/{path.name}" for path in (ROOT / "examples").iterdir() if path.is_file()
}
SITE = {**PAGES, **CARDS, **EXAMPLES}
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in SITE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site, and names into references."""
    here = page.file.src_uri
    there = {site: source for source, site in SITE.items()}.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        text, target, anchor = link[1], posixpath.join(posixpath.dirname(there), link[2]), link[3] or ""
        target = posixpath.normpath(target)
        if target not in SITE and not target.startswith("docs/"):
            return f"`{text}`"  # the source itself is not on the site
        on_site = SITE.get(target, target.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(on_site, posixpath.dirname(here) or '.')}{anchor})"

    markdown = _LINK.sub(moved, markdown)
    return re.sub(r"^::: geouq\.(\w+)$", lambda name: f"::: {_defined(name[1])}", markdown, flags=re.M)


def _defined(name: str) -> str:
    """Return where a public name is defined: in geouq/__init__.py it is imported only when it is used."""
    value = getattr(geouq, name)
    return f"{value.__module__}.{value.__qualname__}"


class Docstrings(griffe.Extension):
    """Docstrings as griffe reads them: the text of `name : text` on its own line, Returns with a type, no roles."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite a docstring before it is parsed."""
        if not obj.docstring:
            return
        text = re.sub(r"^( *)([\w, ]+?) : (?=\S)", r"\1\2\n\1    ", obj.docstring.value, flags=re.M)
        head, line, returns = text.partition("\nReturns\n-------\n")
        if line:
            returns, after, rest = returns.partition("\n\n")
            text = f"{head}{line}{getattr(obj, 'returns', '')}\n{indent(returns, '    ')}{after}{rest}"
        obj.docstring.value = re.sub(r":\w+:(?=`)", "", text)
