"""The page that `--help` prints."""

import shutil
from textwrap import wrap

from cnnzoo.cli.overrides import ConfigTree
from cnnzoo.runtime.command import job_command

MAX_WIDTH = 118


def help_page(help_text: str, tree: ConfigTree) -> str:
    """The help text of a job, and below it the choices of every config group with the default marked."""
    command = job_command(tree.job)
    lines = [help_text.strip().replace(f"python {tree.job}.py", command)]
    if tree.default_choices():
        lines += ["", "Choices (* marks the default):"]
    width = min(MAX_WIDTH, max(40, shutil.get_terminal_size((MAX_WIDTH, 24)).columns))
    for group, default in tree.default_choices().items():
        names = [f"*{name}" if name == default else name for name in tree.choices(group)]
        lines += wrap("  ".join(names), width, initial_indent=f"  {group:<11} ", subsequent_indent=" " * 14)
    return "\n".join(lines)
