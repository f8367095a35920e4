"""The commands and code blocks of README.md and docs/, notebooks included: what they are, and what they need to run.

A line such as `<!-- needs gpu -->` before a block or a paragraph marks what the commands and the code in it need, of
NEEDS. `<!-- needs network: weights=DEFAULT -->` marks only the commands that contain this text.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tests.helpers import ROOT

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("docs/*.ipynb"))]
NEEDS = {"gpu", "network", "slurm", "compiler"}
"""What a marker may name; `network` also stands for an account and for a large data set, `slurm` for its cluster."""
JOBS = ("train", "evaluate", "predict", "export", "share", "describe", "benchmark")
PROGRAMS = ("python", "cnnzoo", "torchrun", "srun", "sbatch", "pip", "pytest", "tensorboard", "hf", "find", "mkdocs")
PARAGRAPH = "paragraph"

_MARKER = re.compile(r"^<!-- needs (\w+)(?:: (.+?))? -->$")
_INLINE_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Marker:
    """`need`, one of NEEDS, of the commands that contain `text`."""

    need: str
    text: str = ""


@dataclass(frozen=True)
class Block:
    """A fenced code block, or a paragraph or table, whose language is PARAGRAPH; `line` is its first line of text."""

    page: str
    line: int
    language: str
    text: str
    markers: tuple[Marker, ...]

    def needs(self, command: str = "") -> frozenset[str]:
        """What the block needs, or only `command` in it."""
        return frozenset(marker.need for marker in self.markers if marker.text in (command or self.text))

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a page.

    text: the command as it is typed, on one line; of a pipeline the whole.
    words: the words of the command; of a pipeline those of its last command.
    """

    text: str
    words: tuple[str, ...]
    needs: frozenset[str]
    place: str

    @property
    def job(self) -> str | None:
        """The job of cnnzoo that the command runs, None for another program."""
        return self._job_and_arguments()[0]

    @property
    def arguments(self) -> list[str]:
        """The arguments of the job."""
        return self._job_and_arguments()[1]

    def _job_and_arguments(self) -> tuple[str | None, list[str]]:
        if self.words[0] == "cnnzoo" and self.words[1:]:
            return self.words[1], list(self.words[2:])
        for index, word in enumerate(self.words):
            if word.endswith(".py") and word[:-3] in JOBS:
                return word[:-3], list(self.words[index + 1 :])
        return None, []

    def __str__(self) -> str:
        return self.text


def read_page(page: Path) -> str:
    """The Markdown of a page; of a notebook without its outputs."""
    text = page.read_text()
    if page.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells)


def read_blocks(page: Path) -> Iterator[Block]:
    """The code blocks and paragraphs of a page, with the markers before them."""
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    markers: list[Marker] = []
    lines: list[str] = []
    fence, language, start = "", "", 0
    for number, line in enumerate([*read_page(page).splitlines(), ""], 1):
        stripped = line.strip()
        if fence:
            if stripped == fence:
                yield Block(name, start, language, "\n".join(lines), tuple(markers))
                fence, lines, markers = "", [], []
            else:
                lines.append(line)
        elif match := _MARKER.match(stripped):
            assert match[1] in NEEDS, f"{name}:{number}: needs {match[1]}; expected one of {sorted(NEEDS)}"
            markers.append(Marker(match[1], match[2] or ""))
        elif stripped.startswith("```") or not stripped:
            if lines:
                yield Block(name, start, PARAGRAPH, "\n".join(lines), tuple(markers))
                lines, markers = [], []
            if stripped:
                language, start = stripped.lstrip("`").split(" ")[0], number + 1
                fence = stripped[: len(stripped) - len(stripped.lstrip("`"))]
        else:
            start = start if lines else number
            lines.append(line)


def named_files(page: Path) -> dict[str, str]:
    """The files that a page shows: the code block after a line with nothing but the name, such as `mynet.py`:."""
    blocks = list(read_blocks(page))
    files = {}
    for title, block in pairwise(blocks):
        if title.language == PARAGRAPH and (match := re.fullmatch(r"`([\w./-]+)`:", title.text)):
            files[match[1]] = f"{block.text}\n"
    return files


def block_commands(block: Block) -> Iterator[Command]:
    """The commands of a block: the lines of a shell block, those after `$ ` of output, those in backticks of text."""
    lines = [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]
    if block.language == "bash":
        texts = [line for line in lines if not line.lstrip().startswith("#")]
    elif block.language in ("", "console"):
        texts = [line[2:] for line in lines if line.startswith("$ ")]
    elif block.language == PARAGRAPH:
        spans = (" ".join(span.split()) for span in _INLINE_CODE.findall(block.text))
        texts = [span for span in spans if span.split(" ")[0] in PROGRAMS and " " in span and not span.endswith("=...")]
    else:
        return
    for text in texts:
        for words in _split(_shell_words(text), "&&"):
            pipeline = list(_split(words, "|"))
            text = " | ".join(shlex.join(program) for program in pipeline)
            command = Command(text, tuple(pipeline[-1]), block.needs(text), str(block))
            if block.language != PARAGRAPH or not command.job or command.arguments:  # otherwise the name of a job
                yield command


def _shell_words(text: str) -> list[str]:
    """The words and operators of a line of a shell script, without its comment."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|")
    lexer.whitespace_split = True
    return list(lexer)


def _split(words: list[str], operator: str) -> Iterator[list[str]]:
    """The parts of `words` between the operators."""
    part: list[str] = []
    for word in [*words, operator]:
        if word != operator:
            part.append(word)
        elif part:
            yield part
            part = []


def read_commands(pages: list[Path]) -> list[Command]:
    """The commands of the pages, each once, whether it is typed as `python train.py` or as `cnnzoo train`.

    A command needs what the marker of any of its places says.
    """
    commands: dict[object, Command] = {}
    for page in pages:
        for block in read_blocks(page):
            for command in block_commands(block):
                key = (command.job, *command.arguments) if command.job else command.text
                known = commands.get(key, command)
                commands[key] = replace(known, needs=known.needs | command.needs)
    return list(commands.values())
