"""`Case`: one thing that a hurried user types, and how a helpful tool reacts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WORKS = "works"
"""Expectation: the exit code is 0."""
NO_TRACEBACK = "no traceback"
"""Expectation: any exit code, but no traceback."""
SKIPPED = 77
"""The exit code of a script that this machine does not allow, such as one that mounts a file system."""
JOBS = ("train", "evaluate", "predict", "export", "share", "describe", "benchmark")


@dataclass(frozen=True)
class Case:
    """What is typed, and the expected reaction.

    typed: the job and its arguments, such as "train model=resnt"; with `kind="shell"` a bash script in which `train`,
        `predict`, `describe`, `benchmark` and `cnnzoo` are commands; with `kind="call"` Python statements. Files are
        those of `tests.mistakes.places`.
    expected: WORKS, NO_TRACEBACK, or a regular expression that is found in the error line, and the exit code is not 0.
    accepted: the command may also succeed.
    quick: the error is reported before torch is imported.
    environment: variables to set, None to unset.
    signal: "SIGINT module function": sent to the process itself when it calls this function for the first time; with
        the function "import", when it imports the module.
    exits: the accepted exit codes; empty for the codes that `expected` implies.
    output, absent: regular expressions that are, and are not, found in the output.
    error_lines: the largest number of lines that start with "error:".
    """

    typed: str
    expected: str
    kind: str = "command"
    accepted: bool = False
    quick: bool = False
    environment: tuple[tuple[str, str | None], ...] = ()
    signal: str = ""
    exits: tuple[int, ...] = ()
    output: str = ""
    absent: str = ""
    error_lines: int = 1

    def __post_init__(self) -> None:
        for pattern in (self.expected, self.output, self.absent):
            re.compile(pattern)

    def __str__(self) -> str:
        variables = " ".join(
            f"{name}={value}" if value is not None else f"-u {name}" for name, value in self.environment
        )
        stage = f" [{self.signal}]" if self.signal else ""
        return f"{variables} {self.typed}{stage}".strip()

    @property
    def job(self) -> str:
        return self.typed.split()[0]

    @property
    def argv(self) -> list[str]:
        """The arguments of the job."""
        return shlex.split(self.typed)[1:]

    @property
    def forks(self) -> bool:
        """Whether the case runs in a fork of a process that has imported torch."""
        if self.kind == "command":
            return self.job in JOBS and not (self.quick or self.environment or self.signal)
        return self.kind == "call"

    @property
    def in_process(self) -> bool:
        """Whether `cnnzoo.cli.prepare` alone decides about the command."""
        return self.quick and self.kind == "command" and not self.environment and self.job in JOBS


def errors(
    job: str, cases: Mapping[str, str], *, quick: bool = False, accepted: bool = False, error_lines: int = 1
) -> list[Case]:
    """Cases from a mapping of arguments to the expected error."""
    return [
        Case(_join(job, arguments), error, quick=quick, accepted=accepted, error_lines=error_lines)
        for arguments, error in cases.items()
    ]


def works(job: str, arguments: Iterable[str]) -> list[Case]:
    """Cases that succeed."""
    return [Case(_join(job, argument), WORKS) for argument in arguments]


def _join(job: str, arguments: str) -> str:
    """The job and its usual arguments, without those that `arguments` sets, then `arguments`."""
    keys = {word.partition("=")[0].lstrip("~") for word in arguments.split()}
    kept = [word for word in job.split() if "=" not in word or word.partition("=")[0] not in keys]
    return " ".join([*kept, arguments]).strip()


def calls(cases: Mapping[str, str], *, setup: str = "import cnnzoo", accepted: bool = False) -> list[Case]:
    """Cases from a mapping of Python expressions to the expected error; `setup` runs before each."""
    return [Case(f"{setup}\n{call}", error, kind="call", accepted=accepted) for call, error in cases.items()]
