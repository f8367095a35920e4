"""Going on with a run that was stopped: with which configuration, and from which checkpoint. Knows no Hydra."""

import logging
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cnnzoo.errors import UserError

log = logging.getLogger(__name__)

FIXED = (
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
OWN = ("run_dir", "resume")


def words_of(run_dir: Path) -> list[str]:
    """The words that a run was started with, as Hydra has them. Raises UserError where there is no run."""
    recorded = run_dir / ".hydra" / "overrides.yaml"
    if not run_dir.is_dir():
        raise UserError(f"resume={run_dir}: there is no such directory; type the run's, which holds checkpoints/")
    if not recorded.is_file():
        raise UserError(f"resume={run_dir} holds no run: it lacks .hydra/overrides.yaml")
    words = [str(word) for word in OmegaConf.load(recorded)]
    return [word for word in words if not word.startswith("sweep=")]  # what a job of one was told is in its others


def going_on(run_dir: Path, before: DictConfig, after: DictConfig, words: Sequence[str]) -> DictConfig:
    """The run's own configuration, with what `after`, composed with these words more, has otherwise than `before`.

    So a run keeps its settings even where a default has changed since. `resume` becomes the words. Raises UserError for
    a change of what the run is: its network, its data, its seed.
    """
    saved = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    assert isinstance(saved, DictConfig)
    OmegaConf.set_struct(saved, False)
    was, now = dict(_leaves(before)), dict(_leaves(after))
    for key in [*was, *(key for key in now if key not in was)]:
        if key in OWN or (key in now and key in was and now[key] == was[key]):
            continue
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED):
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


def newest(run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint, and what is in it; where it is damaged, the one with the most steps; None without any.

    A damaged one is named in the log. Only tensors and plain types are loaded. The best one may have more steps than
    the last, but was perhaps written right after a validation within an epoch, or while gradients were gathered.
    """
    import torch  # here: the command line is checked without it

    found: list[tuple[Path, dict[str, Any]]] = []
    for path in sorted((run_dir / "checkpoints").glob("*.ckpt"), key=lambda path: path.name != "last.ckpt"):
        try:
            with zipfile.ZipFile(path) as parts:
                if (torn := parts.testzip()) is not None:
                    raise ValueError(f"{torn} has another checksum")
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not {"loops", "cnnzoo", "rows"} <= saved.keys():
                raise ValueError("it is no checkpoint of a training run")
        except Exception as error:  # whatever zipfile, pickle and torch say of a damaged file
            reason = str(error).split("\n")[0]
            log.warning("%s is damaged (%s): going on from another", path, reason)
            continue
        if path.name == "last.ckpt":
            return path, saved
        found.append((path, saved))
    return max(found, key=lambda each: each[1]["global_step"]) if found else None


def record(run_dir: Path, words: Sequence[str], checkpoint: Path | None, saved: dict[str, Any] | None) -> None:
    """Add to `resumes.yaml` when, from where and with which words a run went on."""
    entry = {
        "time": datetime.now().isoformat(timespec="seconds"),
        "overrides": list(words),
        "checkpoint": None if checkpoint is None else str(checkpoint.relative_to(run_dir)),
        "epoch": 0 if saved is None else saved["cnnzoo"]["epochs"],
        "step": 0 if saved is None else saved["global_step"],
    }
    with (run_dir / "resumes.yaml").open("a", encoding="utf-8") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create([entry])))


def _leaves(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key with its value, interpolations as they are written."""
    for name in map(str, cfg):
        node: Any = cfg._get_node(name)
        if isinstance(node, DictConfig) and not node._is_interpolation() and len(node):
            yield from _leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", OmegaConf.to_container(OmegaConf.create({"x": node}), resolve=False)["x"]  # type: ignore[index, call-overload]
