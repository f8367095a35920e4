"""The commands that messages suggest and that start further processes, in the form that the user typed."""

import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VARIABLE = "CNNZOO_COMMAND"
"""Environment variable with the form, such as "python {job}.py", so that processes started by this one print it too."""
DEFAULT = "cnnzoo {job}"


def record_command(job: str) -> None:
    """Record how the program was started, from `sys.argv[0]`, unless a process that started this one has done so.

    job: the job that runs, such as "train".
    """
    script = Path(sys.argv[0])
    if getattr(sys.modules["__main__"], "__spec__", None) is not None:
        form = "python -m cnnzoo {job}"
    elif script.name == f"{job}.py":
        form = "python " + shlex.quote(str(script.with_name("JOB.py"))).replace("JOB.py", "{job}.py")
    else:
        form = DEFAULT
    os.environ.setdefault(VARIABLE, form)


def job_command(job: str) -> str:
    """What to type to run `job`: "python train.py", "python -m cnnzoo train" or "cnnzoo train"."""
    return os.environ.get(VARIABLE, DEFAULT).replace("{job}", job)


def config_options(settings: Any) -> list[str]:
    """The options with which another command finds the configuration files of the user.

    settings: Hydra's own part of the configuration, `HydraConfig.get()` or `hydra` in a run's `.hydra/hydra.yaml`.
    """
    sources = list(settings.runtime.config_sources)
    options = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    searched = [
        s.path if s.schema == "file" else f"{s.schema}://{s.path}" for s in sources if "searchpath" in s.provider
    ]
    if settings.job.config_name != settings.job.name:
        options.insert(0, f"--config-name={settings.job.config_name}")
    return options + ([search_path_override(searched)] if searched else [])


def search_path_override(entries: Iterable[Path | str]) -> str:
    """The override that lets Hydra look for configuration files in more places: directories, or `pkg://PACKAGE`."""
    quoted = ["'{}'".format(str(entry).replace("'", "\\'")) for entry in entries]
    return f"hydra.searchpath=[{','.join(quoted)}]"
