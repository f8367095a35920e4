"""The command line that all jobs share: overrides, the composed configuration, errors on one line.

Only this package, `cnnzoo.jobs` and the scripts at the root import Hydra. `run` checks the command line before Hydra
runs and before torch is imported. A misspelt key is therefore reported in a third of a second; importing torch alone
takes seconds.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnzoo.cli import sweep
from cnnzoo.cli.options import sort_arguments
from cnnzoo.cli.overrides import ConfigTree, parse_override, quote
from cnnzoo.cli.resume import expand_resume, merge_run_config, resumed_config
from cnnzoo.cli.run_dir import remove_unused_run_dir
from cnnzoo.cli.validate import error_line, prepare
from cnnzoo.errors import UserCodeError, UserError
from cnnzoo.runtime import distributed
from cnnzoo.runtime.command import config_options, record_command
from cnnzoo.runtime.files import CONF, check_current_directory, check_utf8
from cnnzoo.runtime.interrupts import raise_at_sigint
from cnnzoo.runtime.stdout import exit_at_stdout_error, prepare_streams
from cnnzoo.runtime.user_code import add_current_directory, locate, user_traceback

__all__ = ["CONF", "ConfigTree", "compose", "instantiate", "prepare", "run", "typed_keys", "was_typed"]

LIBRARY_LOG_LEVELS = {"TORCH_CPP_LOG_LEVEL": "ERROR", "KINETO_LOG_LEVEL": "99"}
"""Silences warnings about sockets and profilers that torch prints from C++ and that a user can do nothing about."""

log = logging.getLogger(__name__)


@exit_at_stdout_error()
def run(main: Callable[[DictConfig], float | None], *, job: str, help_text: str) -> None:
    """Run a job as `hydra.main` does, after checking and completing the command line.

    main: takes the composed configuration, returns the metric that a sweep optimizes, or None.
    job: the name of the job, of its module `cnnzoo.jobs.<job>` and of its configuration `conf/<job>.yaml`.
    help_text: what `--help` prints above the choices.

    A UserError is printed on one line, and the exit code is 1. In a multirun, the other jobs still run.
    """
    prepare_streams()
    finished = distributed.exit_with_parent()
    record_command(job)
    command = list(sys.argv)
    try:
        distributed.check_rank_variables()
        check_current_directory()
        add_current_directory()
        for argument in command:
            check_utf8(argument)
        argv = sort_arguments(distributed.strip_lightning_overrides(command[1:]))
        argv, run_dir = expand_resume(argv) if job == "train" else (argv, None)
        argv, dropped = prepare(argv, job=job, help_text=help_text)
        resumed_cfg = None if run_dir is None else resumed_config(run_dir, argv, job)
    except UserError as error:
        _exit_with_error(error)
    if resumed_cfg is not None and "--cfg=job" in argv:  # Hydra would print the configuration before it is merged
        print(OmegaConf.to_yaml(resumed_cfg, resolve="--resolve" in argv))
        return
    sys.argv[1:] = argv
    for name, value in LIBRARY_LOG_LEVELS.items():
        os.environ.setdefault(name, value)  # torch, which is imported later, reads them then
    sweep_dir = _sweep_dir(argv)
    if sweep_dir is not None:
        print(f"sweep  {sweep_dir}", flush=True)
    failures = list(dropped)

    @exit_at_stdout_error()
    def task(cfg: DictConfig) -> float | None:
        settings = HydraConfig.get()
        is_multirun = settings.mode == RunMode.MULTIRUN
        if resumed_cfg is not None:
            cfg = resumed_cfg
        if "run_dir" in cfg:
            cfg.run_dir = settings.runtime.output_dir  # a multirun has one for each job
        try:
            if is_multirun and "run_dir" in cfg:
                return sweep.run_job(lambda resume: _run_sweep_job(main, cfg, job, resume), Path(cfg.run_dir))
            os.environ[distributed.RUN_DIR_VARIABLE] = cfg.get("run_dir") or ""
            with _errors_as_user_error():
                return main(cfg)
        except UserError as error:
            if not is_multirun or isinstance(error, sweep.SweepError):
                _exit_with_error(error, run_dir=None if is_multirun else cfg.get("run_dir"))
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            if sweep_dir is None:  # otherwise the job's directory holds its error
                failures.append(f"{' '.join(settings.overrides.task)}: {error}")
            log.error("%s", error_line(error))
            return None  # Hydra's Optuna sweeper counts it as a failed trial, but would end at a nan

    task.__module__ = f"cnnzoo.jobs.{job}"
    complete = False
    try:
        raise_at_sigint()
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=job)(task)()
        complete = True
    except KeyboardInterrupt:
        sys.exit(130)  # 128 plus SIGINT's number, as shells report it
    finally:
        finished.set()
        if sweep_dir is not None:
            failures += sweep.print_summary(sweep_dir, command, complete)
    if failures:
        jobs = f"{len(failures)} jobs" if len(failures) > 1 else "a job"
        sys.exit("\n".join([f"error: {jobs} of this multirun failed", *(f"  {failure}" for failure in failures)]))


def _sweep_dir(argv: list[str]) -> Path | None:
    for argument in argv:
        if argument.startswith("hydra.sweep.dir="):
            return Path(str(parse_override(argument).value()))
    return None


def _run_sweep_job(main: Callable[[DictConfig], float | None], cfg: DictConfig, job: str, resume: bool) -> float | None:
    """Run one job of a sweep in this process, or in a subprocess if it has several ranks."""
    if resume:
        cfg = merge_run_config(Path(cfg.run_dir), cfg, cfg, ())
    if not distributed.has_several_ranks(cfg.trainer):
        with _errors_as_user_error():
            return main(cfg)
    overrides = [*HydraConfig.get().overrides.task, quote("run_dir", cfg.run_dir), "hydra.output_subdir=null"]
    if resume:
        overrides = [quote("resume", cfg.run_dir)]
    arguments = [*overrides, *config_options(HydraConfig.get()), "hydra.mode=RUN"]
    return sweep.run_in_subprocess(f"cnnzoo.jobs.{job}", arguments, cfg)


def _exit_with_error(error: UserError, *, run_dir: str | None = None) -> NoReturn:
    """Print the error and exit, so that Hydra adds no lines of its own; remove `run_dir` if nothing was run in it."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    if not distributed.is_rank_zero():
        time.sleep(5)  # if rank 0 has the same error, it prints it and ends this rank meanwhile
    if isinstance(error, UserCodeError):
        print(user_traceback(error.__cause__), file=sys.stderr, end="")
    print(error_line(error), file=sys.stderr, flush=True)
    distributed.abort_run_dir()
    if run_dir is not None and distributed.is_rank_zero():
        remove_unused_run_dir(Path(run_dir))
    sys.exit(1)


@contextmanager
def _errors_as_user_error() -> Iterator[None]:
    """Turn errors that the configuration or the file system causes into a UserError.

    These are calls that do not know an argument that an override added, values of keys that do not exist, and files
    that cannot be opened.
    """
    try:
        yield
    except TypeError as error:
        name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        for override in HydraConfig.get().overrides.task:
            key = parse_override(str(override)).key_or_group
            if name is not None and key.split(".")[-1] == name[1]:
                raise UserError(f"{override}: {error}") from error
        raise
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"{error.filename}: {error.strerror}") from error


def was_typed(key: str) -> bool:
    """Whether an override sets `key`, in this command line or in that of the run that is resumed.

    Always true without a command line: then a caller has set the whole configuration.
    """
    return key in typed_keys() if HydraConfig.initialized() else True


def compose(job: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of a job, also while another job runs."""
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(job, overrides=list(overrides))
    return ConfigTree(job).compose(overrides)


def typed_keys() -> list[str]:
    """The keys and groups that the overrides set, as in `was_typed`; empty without a command line."""
    if not HydraConfig.initialized():
        return []
    return [parse_override(str(override)).key_or_group for override in HydraConfig.get().overrides.task]


def instantiate(node: DictConfig, key: str, **arguments: Any) -> Any:
    """`hydra.utils.instantiate`, which raises a UserError for bad arguments.

    node: the part of the configuration to instantiate.
    key: the key of `node`, which the error names.
    arguments: further arguments of the call.

    Raises UserError for a target that does not exist, and UserCodeError for what a target raises.
    """
    for path, target in _targets(node, key):
        locate(f"{path}._target_", target)
    try:
        return hydra.utils.instantiate(node, **arguments)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
        raise UserCodeError(f"{key}: {' '.join(lines[:2])}") from cause


def _targets(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Each class or function that instantiating `node` calls, with the key of its node."""
    if isinstance(node, DictConfig) and node.get("_target_") is not None:
        yield key, str(node._target_)
    for name in map(str, node if isinstance(node, DictConfig) else ()):
        yield from _targets(node[name], f"{key}.{name}")
