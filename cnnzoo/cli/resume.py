"""`resume=DIR`: a command line that goes on with a run, and the configuration that it goes on with."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from cnnzoo.cli.overrides import compose, override_args, parse_override, path_value, quote, quote_path
from cnnzoo.errors import UserError
from cnnzoo.runtime import distributed

FIXED_KEYS = (
    "model",
    "seed",
    "data.name",
    "data._target_",
    "data.source",
    "data.split_seed",
    "data.image_size",
    "data.channels",
)
"""What a run is: a resume that changes one of these keys would be another run."""
RUN_KEYS = ("run_dir", "resume")


def expand_resume(argv: list[str]) -> tuple[list[str], Path | None]:
    """The command line with the words that the run of `resume=` was started with, and its directory, where one is.

    `resume=auto` is the run in `run_dir`, if there is one yet. Raises UserError for a directory that holds no run.
    """
    args, _ = get_args_parser().parse_known_args(argv)
    values = {key: path_value(word) for word in args.overrides for key in RUN_KEYS if word.startswith(f"{key}=")}
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
        if not _has_begun(Path(wanted)):
            return rest, None
    elif "run_dir" in values:
        raise UserError(f"resume={wanted}: a resumed run goes on in its own directory; leave run_dir out")
    run_dir = Path(wanted)
    recorded = recorded_overrides(run_dir)
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"resume={run_dir}: it cannot be written to; copy it to where it can, and resume the copy")
    keys = {parse_override(quote_path(word)).key_or_group for word in rest if word in args.overrides} | set(RUN_KEYS)
    before = [word for word in recorded if parse_override(word).key_or_group not in keys]
    rest = [word for word in rest if not word.startswith("run_dir=")]
    own = [quote("resume", str(run_dir)), quote("hydra.run.dir", str(run_dir)), "hydra.output_subdir=null"]
    return [*before, *rest, *(word for word in own if word not in rest)], run_dir


def resumed_config(run_dir: Path, argv: list[str], config: str) -> DictConfig:
    """The configuration that the run in `run_dir` goes on with, when these are the words."""
    typed = [word for word in override_args(argv) if not word.startswith(("hydra.", "hydra/"))]
    recorded = [word for word in recorded_overrides(run_dir) if not word.startswith("run_dir=")]
    new = [word for word in typed if word not in recorded and not word.startswith("resume=")]
    return merge_run_config(run_dir, compose(config, recorded), compose(config, typed), new)


def _has_begun(run_dir: Path) -> bool:
    """Whether a run has begun there, before this command: not by its first rank, while the others still ask."""
    if distributed.launched_by_torchrun() or distributed.launched_by_slurm():
        return any(run_dir.glob("checkpoints/*.ckpt"))  # which none writes until all are at work
    return (run_dir / ".hydra" / "overrides.yaml").is_file()


def recorded_overrides(run_dir: Path) -> list[str]:
    """The words that a run was started with, as Hydra has them. Raises UserError where there is no run."""
    recorded = run_dir / ".hydra" / "overrides.yaml"
    if not run_dir.is_dir():
        raise UserError(f"resume={run_dir}: there is no such directory; type the run's, which holds checkpoints/")
    if not recorded.is_file():
        raise UserError(f"resume={run_dir} holds no run: it lacks .hydra/overrides.yaml")
    words = [str(word) for word in OmegaConf.load(recorded)]
    return [word for word in words if not word.startswith("sweep=")]  # what a job of one was told is in its others


def merge_run_config(run_dir: Path, before: DictConfig, after: DictConfig, words: Sequence[str]) -> DictConfig:
    """The run's own configuration, with what `after`, composed with these words more, has otherwise than `before`.

    So a run keeps its settings even where a default has changed since. `resume` becomes the words. Raises UserError for
    a change of what the run is: its network, its data, its seed.
    """
    saved = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    assert isinstance(saved, DictConfig)
    OmegaConf.set_struct(saved, False)
    was, now = dict(_leaves(before)), dict(_leaves(after))
    for key in [*was, *(key for key in now if key not in was)]:
        if key in RUN_KEYS or (key in now and key in was and now[key] == was[key]):
            continue
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED_KEYS):
            then = OmegaConf.select(saved, key, default=None)
            raise UserError(
                f"{key}={now.get(key)}: the run in {run_dir} has {then}, and goes on with the same network and data; "
                "leave it out, or start a new run"
            )
        if key in now:
            OmegaConf.update(saved, key, now[key], force_add=True)
        elif OmegaConf.select(saved, key.rpartition(".")[0]) is not None:
            del OmegaConf.select(saved, key.rpartition(".")[0])[key.rpartition(".")[2]]
    saved.run_dir, saved.resume = str(run_dir), list(words)
    OmegaConf.set_struct(saved, True)
    return saved


def _leaves(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key with its value, interpolations as they are written."""
    for name in map(str, cfg):
        node: Any = cfg._get_node(name)
        if isinstance(node, DictConfig) and not node._is_interpolation() and len(node):
            yield from _leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", OmegaConf.to_container(OmegaConf.create({"x": node}), resolve=False)["x"]  # type: ignore[index, call-overload]
