"""Publish a run on the Hugging Face Hub: its weights, a model card, its configuration and its training curves."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from cnnzoo.checks import check_bool
from cnnzoo.errors import UserError
from cnnzoo.export.card import model_card, public_config
from cnnzoo.export.curves import save_curves
from cnnzoo.inference.hub import REPO_ID, WEIGHTS_FILE, is_hub_name
from cnnzoo.inference.load_run import load_run
from cnnzoo.inference.subject import FINISHED, find_runs
from cnnzoo.inference.weights_file import save_safetensors
from cnnzoo.runtime.files import atomic_write

CARD, CONFIG, PICTURE = "README.md", "config.yaml", "training_curves.png"
MAX_REPO_LENGTH = 96


def check_options(cfg: Any) -> None:
    """Raise UserError for bad values of the job's keys, before anything is loaded."""
    if cfg.run is None:
        raise UserError("run: nothing to share; type run=DIR (a run directory), or run=latest")
    if cfg.repo is None:
        raise UserError("repo: no repository given; type repo=USER/NAME")
    name = str(cfg.repo)
    if not re.fullmatch(REPO_ID, name) or len(name) > MAX_REPO_LENGTH or re.search(r"--|\.\.|[-.]$|\.git$", name):
        raise UserError(f"repo={name[:100]}: expected USER/NAME, of letters, digits, '-', '_' and '.'")
    for key in ("private", "dry_run", "trust_code"):
        check_bool(key, cfg[key])
    if cfg.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(cfg.license)):
        raise UserError(f"license={cfg.license}: expected an identifier of the Hub, such as mit, apache-2.0 or other")
    if cfg.dry_run and cfg.out is None:
        raise UserError("dry_run=true: type out=DIR, the directory to write")
    if cfg.out is not None:
        out = Path(cfg.out).absolute()
        if out.exists():
            raise UserError(f"out={cfg.out}: exists already; choose another directory")
        parent = next(parent for parent in out.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"out={cfg.out}: {parent} is not a directory that can be written to; choose another")


def load_finished_run(run: str, *, trust_code: bool = False) -> tuple[nn.Module, Path]:
    """The network of a finished run, with the weights that its metrics belong to, and the run directory.

    run: a run directory, or "latest".
    trust_code: see `load_run`.

    Raises UserError if there is no such run, and for an unfinished one.
    """
    path = Path(run).expanduser()
    if is_hub_name(run) or path.is_file():
        raise UserError(f"run={run}: expected a run directory, which has the metrics and the configuration")
    if (path / "checkpoints").is_dir() and not (path / FINISHED).is_file():
        raise UserError(f"run={run}: the run has not finished; continue it with the job train and resume={run}")
    found = find_runs(run)
    if len(found) > 1:
        raise UserError(f"run={run}: matches {len(found)} runs; type one of them, for example run={found[0]}")
    has_best = (found[0] / "checkpoints" / "best.ckpt").is_file()
    return load_run(found[0], checkpoint="best" if has_best else "last", trust_code=trust_code), found[0]


def write_folder(folder: Path, net: nn.Module, run_dir: Path, repo: str, *, license_id: str | None) -> list[Path]:
    """Write the files of the repository to `folder`, which is created, and return their paths.

    net: the network of the run in `run_dir`, as `load_run` returns it.
    license_id: an identifier of the Hub, such as "mit"; None leaves it out.

    Raises UserError if a file cannot be written.
    """
    paths = [folder / name for name in (WEIGHTS_FILE, CARD, CONFIG)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_safetensors(net, paths[0])
        has_picture = save_curves(run_dir / "metrics.csv", folder / PICTURE)
        texts = {
            CARD: model_card(net, run_dir, repo, license_id=license_id, picture=PICTURE if has_picture else None),
            CONFIG: public_config(run_dir),
        }
        for name, text in texts.items():
            with atomic_write(folder / name) as file:
                file.write(text)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)  # a part of the files is of no use
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error
        raise
    return [*paths, folder / PICTURE] if has_picture else paths


def check_login() -> None:
    """Raise UserError if huggingface_hub is not installed, or if there is no token for the Hub."""
    try:
        from huggingface_hub import get_token
    except ModuleNotFoundError as error:
        raise UserError('share needs huggingface_hub; type pip install "cnnzoo[hub]", or dry_run=true') from error
    if get_token() is None:
        raise UserError("there is no token for the Hugging Face Hub; type hf auth login, or set HF_TOKEN")


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Create the repository if it does not exist, upload the files in `folder` to it, and return its address.

    Raises UserError if the repository has a network already, and if the upload fails.
    """
    from huggingface_hub import create_repo, file_exists, upload_folder  # here: an optional package

    try:
        create_repo(repo, private=private, exist_ok=True)
        if file_exists(repo, WEIGHTS_FILE):
            raise UserError(f"repo={repo}: it holds a network already; choose another name, or delete it on the Hub")
        upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a network trained with cnnzoo")
    except UserError:
        raise
    except Exception as error:  # of the HTTP client, the file system and the Hub
        raise UserError(f"repo={repo}: cannot be uploaded: {_reason(error)}") from error
    return f"https://huggingface.co/{repo}"


def _reason(error: Exception) -> str:
    """Why a request failed, on one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the Hub does not accept the token; type hf auth login"
    if status == 403:
        return "the token may not write there; type hf auth login with a token that may, or another repo=USER/NAME"
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{text[:150]}; try again, or type dry_run=true out=DIR to write the files only"
