"""The pages: every link goes somewhere, every file that is named exists, every public name is in the reference."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import geouq
from tests.test_00_ladder import RUNGS

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
PAGES = sorted(ROOT / name for name in TRACKED if name.endswith(".md")) or sorted(ROOT.glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: a file of this repository in backquotes: with a folder, or of the root
NAMED = re.compile(r"`((?:geouq|cli|docs|examples|tests|benchmarks)/[\w/.-]*\w\.\w+|[A-Z]+\.md|mkdocs\.yml)`")


@cache
def text_of(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and mkdocs both make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text_of(page), re.M):
        letters = re.sub(r"[^\w\- ]", "", heading.lower()).strip()
        found.add(re.sub(r"[ -]+", "-", letters))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_go_somewhere(page):
    for link in LINK.findall(text_of(page)):
        target, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.is_relative_to(ROOT) and there.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {link}"
    for name in NAMED.findall(text_of(page)):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_a_dead_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_90_docs.ROOT", tmp_path)
    (tmp_path / "a.md").write_text("# Some heading: here\n[x](b.md) [y](#some-heading-here)")
    with pytest.raises(AssertionError, match=r"b\.md"):
        test_links_go_somewhere(tmp_path / "a.md")
    (tmp_path / "b.md").write_text("[x](a.md#elsewhere)")
    test_links_go_somewhere(tmp_path / "a.md")
    with pytest.raises(AssertionError, match="elsewhere"):
        test_links_go_somewhere(tmp_path / "b.md")


def test_the_reference_has_every_public_name():
    assert sorted(re.findall(r"^::: geouq\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.M)) == sorted(geouq.__all__)


def test_the_design_has_every_room_in_its_order():
    rows = re.findall(r"^\| (`[\w`, ]+`) \|", (ROOT / "DESIGN.md").read_text().partition("## The ladder")[2], re.M)
    rooms = [room for row in rows for room in re.findall(r"`(\w+)`", row)]
    assert rooms == [room for rung in RUNGS for room in rung] + ["cli"]


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in nav, page.name
    for card in (ROOT / "geouq/weights").glob("*.md"):
        assert f": models/{card.name}\n" in nav, card.name
