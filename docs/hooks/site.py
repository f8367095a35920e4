"""Hooks of MkDocs: pages that are made while the site is built, and links that work on GitHub and in the site."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from families import family_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_page import notebook_page

ROOT = Path(__file__).parents[2]
PAGES_OF_ROOT = {
    "README.md": "index.md",
    "benchmarks/RESULTS.md": "results.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/tour.ipynb": "tour.md",
}
"""Files that are not Markdown in docs/ and are pages of the site: path in the repository -> page."""
FAMILIES = family_pages()
_TARGET = re.compile(r"(\]\(|\bsrc=\")(?!\w+:|#)([^)\s\"#]+)(#[^)\s\"]*)?(?=[)\"])")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the families below "Networks"."""
    pages = [{title: f"networks/{family}.md"} for family, (title, _) in FAMILIES.items()]
    for section in config.nav or ():
        if "Networks" in section:
            section["Networks"] += pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and the charts of the measurements."""
    for path, page in PAGES_OF_ROOT.items():
        text, pictures = notebook_page(ROOT / path) if path.endswith(".ipynb") else ((ROOT / path).read_text(), {})
        files.append(File.generated(config, page, content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, name, content=picture))
    for chart in (ROOT / "benchmarks").glob("*/*.png"):
        files.append(File.generated(config, chart.relative_to(ROOT).as_posix(), content=chart.read_bytes()))
    for family, (_, text) in FAMILIES.items():
        files.append(File.generated(config, f"networks/{family}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Remove the markers of the tests, and let links between files of the repository lead to pages of the site."""
    uri = page.file.src_uri
    if uri.startswith("networks/"):
        return markdown
    origin = next((path for path, name in PAGES_OF_ROOT.items() if name == uri), f"docs/{uri}")
    markdown = re.sub(r"^<!-- needs .* -->\n", "", markdown, flags=re.MULTILINE)
    markdown = _LINK.sub(lambda link: _link(link, origin, config.repo_url), markdown)
    return _TARGET.sub(lambda target: target[1] + _to_site(target[2], origin, uri) + (target[3] or ""), markdown)


def _link(link: re.Match[str], origin: str, repo_url: str | None) -> str:
    """The link itself; to a file that is not in the site, its text, or a link to the repository if that is known."""
    path = _path(link[2], origin)
    if path in PAGES_OF_ROOT or path.startswith("docs/"):
        return link[0]
    return f"[{link[1]}]({repo_url}/blob/main/{path})" if repo_url else link[1]


def _to_site(target: str, origin: str, uri: str) -> str:
    path = _path(target, origin)
    page = PAGES_OF_ROOT.get(path, path.removeprefix("docs/"))
    return relpath(page, dirname(uri) or ".")


def _path(target: str, origin: str) -> str:
    """The path in the repository of a link in the file `origin`."""
    return normpath(f"{dirname(origin)}/{target}").lstrip("/")
