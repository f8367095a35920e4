"""What all jobs share: reading the command line, composing the configuration, one line for each error.

With the scripts at the root this is the only place that knows Hydra. A job is a function of the composed
configuration; `run` checks the command line ahead of Hydra (importing nothing heavy, so that a misspelt key is answered
in a third of a second, not in the seconds that torch takes to load), then hands over to Hydra.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from cnnzoo.cli import sweep
from cnnzoo.cli.overrides import CONF, choices, groups, parse_override, quote
from cnnzoo.cli.resume import expand_resume, merge_run_config, resumed_config
from cnnzoo.cli.validate import error_line, prepare
from cnnzoo.errors import UserError
from cnnzoo.runtime import distributed

__all__ = ["CONF", "choices", "groups", "instantiate", "prepare", "run"]

LIBRARY_LOG_LEVELS = {"TORCH_CPP_LOG_LEVEL": "ERROR", "KINETO_LOG_LEVEL": "99"}
"""What torch's C++ code prints past Python's warnings, of sockets and profilers, is nothing a person can act on."""

log = logging.getLogger(__name__)


def run(main: Callable[[DictConfig], float | None], *, config: str, help_text: str) -> None:
    """Run a job as `hydra.main` would, on `conf/<config>.yaml`, with the command line checked and mended first."""
    alive = distributed.exit_with_parent()
    typed = sys.argv[1:]
    try:
        argv, run_dir = expand_resume(distributed.strip_lightning_overrides(typed))
        argv, dropped = prepare(argv, config=config, help_text=help_text)
        going_on = None if run_dir is None else resumed_config(run_dir, argv, config)
    except UserError as error:
        _exit_with_error(error)
    sys.argv[1:] = argv
    for name, value in LIBRARY_LOG_LEVELS.items():
        os.environ.setdefault(name, value)  # read when torch is imported, which is later
    sweep_dir = next(
        (Path(str(parse_override(word).value())) for word in argv if word.startswith("hydra.sweep.dir=")), None
    )
    if sweep_dir is not None:
        print(f"sweep  {sweep_dir}", flush=True)
    failures = list(dropped)

    def job(cfg: DictConfig, *, resume: bool) -> float | None:
        """One of a sweep."""
        if resume:
            cfg = merge_run_config(Path(cfg.run_dir), cfg, cfg, ())
        if not distributed.has_several_ranks(cfg.trainer):
            return main(cfg)
        words = [*HydraConfig.get().overrides.task, quote("run_dir", cfg.run_dir), "hydra.output_subdir=null"]
        if resume:
            words = [quote("resume", cfg.run_dir)]
        return sweep.run_in_subprocess(CONF.parent / f"{config}.py", [*words, "hydra.mode=RUN"], cfg)

    def task(cfg: DictConfig) -> float | None:
        settings = HydraConfig.get()
        if going_on is not None:
            cfg = going_on
        if "run_dir" in cfg:
            cfg.run_dir = settings.runtime.output_dir  # in a multirun each job has its own
        try:
            if settings.mode == RunMode.MULTIRUN and "run_dir" in cfg:
                return sweep.run_job(lambda resume: job(cfg, resume=resume), Path(cfg.run_dir))
            os.environ[distributed.RUN_DIR_VARIABLE] = cfg.get("run_dir") or ""
            return main(cfg)
        except UserError as error:
            if settings.mode != RunMode.MULTIRUN or isinstance(error, sweep.SweepError):
                _exit_with_error(error)
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            if sweep_dir is None:
                failures.append(f"{' '.join(settings.overrides.task)}: {error}")
            log.error("%s", error_line(error))
            return None  # a job that brought nothing; a nan would end Optuna's sweeper

    task.__module__ = main.__module__
    done = False
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(task)()
        done = True
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says of what Ctrl-C ended
    finally:
        alive.set()
        if sweep_dir is not None:
            failures += sweep.print_summary(sweep_dir, [sys.argv[0], *typed], done)
    if failures:
        several = (
            f"{len(failures)} jobs of this multirun failed" if len(failures) > 1 else "a job of this multirun failed"
        )
        sys.exit("\n".join([f"error: {several}", *(f"  {failure}" for failure in failures)]))


def _exit_with_error(error: UserError) -> NoReturn:
    """End past Hydra, which would add lines of its own to the error's one."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    if distributed.global_rank():
        time.sleep(5)  # if the first rank has the same to say, it ends this one meanwhile
    print(error_line(error), file=sys.stderr, flush=True)
    distributed.abort_run_dir()
    sys.exit(1)


def instantiate(node: DictConfig, key: str, **more: Any) -> Any:
    """`hydra.utils.instantiate`, whose complaint about an argument becomes a `UserError` that names the key."""
    try:
        return hydra.utils.instantiate(node, **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        name = type(cause).__name__
        if isinstance(cause, (TypeError, ValueError)) or name in ("MisconfigurationException", "ModuleNotFoundError"):
            raise UserError(f"{key}: {cause}") from error
        raise
