"""`resume=DIR`: a command line that goes on with a run, and the configuration that it goes on with."""

import os
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from cnnzoo import ranks, resuming
from cnnzoo.cli.words import compose, overrides, parse, quote, quote_path, value_of
from cnnzoo.errors import UserError


def resumed(argv: list[str]) -> tuple[list[str], Path | None]:
    """The command line with the words that the run of `resume=` was started with, and its directory, where one is.

    `resume=auto` is the run in `run_dir`, if there is one yet. Raises UserError for a directory that holds no run.
    """
    args, _ = get_args_parser().parse_known_args(argv)
    values = {key: value_of(word) for word in args.overrides for key in resuming.OWN if word.startswith(f"{key}=")}
    wanted = values.get("resume", "null")
    if wanted == "null":
        return argv, None
    if args.multirun:
        raise UserError(f"resume={wanted}: a sweep goes on with its own command and run_dir=DIR; leave resume out")
    rest = [word for word in argv if word not in args.overrides or not word.startswith("resume=")]
    if wanted == "auto":
        if "run_dir" not in values:
            raise UserError("resume=auto needs run_dir=DIR, the same in each start: the run there goes on, or begins")
        wanted = values["run_dir"]
        if not _begun(Path(wanted)):
            return rest, None
    elif "run_dir" in values:
        raise UserError(f"resume={wanted}: a resumed run goes on in its own directory; leave run_dir out")
    run_dir = Path(wanted)
    recorded = resuming.words_of(run_dir)
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"resume={run_dir}: it cannot be written to; copy it to where it can, and resume the copy")
    keys = {parse(quote_path(word)).key_or_group for word in rest if word in args.overrides} | set(resuming.OWN)
    before = [word for word in recorded if parse(word).key_or_group not in keys]
    rest = [word for word in rest if not word.startswith("run_dir=")]
    own = [quote("resume", str(run_dir)), quote("hydra.run.dir", str(run_dir)), "hydra.output_subdir=null"]
    return [*before, *rest, *(word for word in own if word not in rest)], run_dir


def configuration(run_dir: Path, argv: list[str], config: str) -> DictConfig:
    """The configuration that the run in `run_dir` goes on with, when these are the words."""
    typed = [word for word in overrides(argv) if not word.startswith(("hydra.", "hydra/"))]
    recorded = [word for word in resuming.words_of(run_dir) if not word.startswith("run_dir=")]
    new = [word for word in typed if word not in recorded and not word.startswith("resume=")]
    return resuming.going_on(run_dir, compose(config, recorded), compose(config, typed), new)


def _begun(run_dir: Path) -> bool:
    """Whether a run has begun there, before this command: not by its first rank, while the others still ask."""
    if ranks.by_torchrun() or ranks.by_slurm():
        return any(run_dir.glob("checkpoints/*.ckpt"))  # which none writes until all are at work
    return (run_dir / ".hydra" / "overrides.yaml").is_file()
