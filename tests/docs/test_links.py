"""The links of the documentation lead to files and headings that exist, as GitHub finds them."""

import re
from itertools import chain

import pytest

from tests.helpers import ROOT
from tests.helpers.docs import CONTRIBUTING, PAGES, PARAGRAPH, read_blocks, read_page

ALL_PAGES = [*PAGES, CONTRIBUTING, ROOT / "CHANGELOG.md", ROOT / "benchmarks/RESULTS.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"")


def text_blocks(page):
    return [block for block in read_blocks(page) if block.language == PARAGRAPH]


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = [line for block in text_blocks(page) for line in block.text.splitlines() if line.startswith("#")]
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.lstrip("# ")).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"`[^`]*`", "", "\n".join(block.text for block in text_blocks(page)))
    for link in filter(None, chain.from_iterable(LINK.findall(text))):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_of_docs_are_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix not in (".md", ".ipynb"):
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#:]+)[^)\s]*\)", read_page(page))
        waiting += [target for link in links if (target := (page.parent / link).resolve()).is_file()]
    assert set(ALL_PAGES) <= reached
