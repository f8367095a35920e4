"""The installed command: `cnnzoo train model=resnet` runs the job `train`; `python -m cnnzoo` does the same."""

import runpy
import sys
from importlib import import_module

from cnnzoo import __version__
from cnnzoo.errors import UserError, unknown
from cnnzoo.jobs import JOBS, check_packages
from cnnzoo.runtime.command import job_command, record_command
from cnnzoo.runtime.interrupts import exit_at_sigint
from cnnzoo.runtime.stdout import exit_at_stdout_error, prepare_streams


@exit_at_stdout_error()
def main() -> None:
    """Run the job that the first argument names, with the other arguments."""
    exit_at_sigint()
    prepare_streams()
    job, *arguments = sys.argv[1:] or ["--help"]
    record_command(job)
    check_packages()
    if job in ("--help", "-h", "help"):
        print(_help_page())
        return
    if job == "--version":
        print(f"cnnzoo {__version__}")
        return
    if job not in JOBS:
        sys.exit(f"error: {_unknown_job(job)}")
    sys.argv[1:] = arguments
    # Runs the module as `python -m` does: Lightning starts the other ranks of a job with the name of this module.
    runpy.run_module(f"cnnzoo.jobs.{job}", run_name="__main__", alter_sys=True)


def _unknown_job(job: str) -> UserError:
    if "=" in job or job.startswith("-"):
        return UserError(f"'{job}' is not a job; type the job first, for example: {job_command('train')} {job}")
    return unknown("job", job, JOBS)


def _help_page() -> str:
    lines = ["Train the classic CNNs, use and export them, and measure what limits their speed.", "", "Jobs:"]
    width = max(len(job_command(job)) for job in JOBS)
    for job in JOBS:
        summary = (import_module(f"cnnzoo.jobs.{job}").__doc__ or "").split(".")[0]
        lines.append(f"  {job_command(job):<{width}}  {summary}")
    lines += ["", f"{job_command(JOBS[0])} --help lists the keys of a job. In Python: import cnnzoo; help(cnnzoo)"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
