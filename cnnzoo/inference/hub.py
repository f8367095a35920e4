"""Networks on the Hugging Face Hub: `hf://USER/REPO` and `hf://USER/REPO@REVISION`."""

import re
from pathlib import Path

from cnnzoo.errors import UserError

PREFIX = "hf://"
WEIGHTS_FILE = "model.safetensors"
"""The file of a repository that holds the weights and, in its metadata, the network's description."""
REPO_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


def is_hub_name(name: object) -> bool:
    """Return True if `name` is a name on the Hub, and not a path."""
    return isinstance(name, str) and name.startswith(PREFIX)


def local_weights(weights: str | Path, *, key: str) -> str | Path:
    """The downloaded file for a name on the Hub; anything else is returned unchanged. See `download`."""
    return download(str(weights), key=key) if is_hub_name(weights) else weights


def download(name: str, *, key: str) -> Path:
    """Download `model.safetensors` of a repository and return its path in the cache of huggingface_hub.

    name: "hf://USER/REPO" or "hf://USER/REPO@REVISION", where a revision is a branch, a tag or a commit.
    key: what the user has set to `name`, for the error.

    Raises UserError if huggingface_hub is not installed, and if the repository or the file cannot be downloaded.
    """
    match = re.fullmatch(rf"{PREFIX}({REPO_ID})(?:@([\w./-]+))?", name)
    if match is None:
        raise UserError(f"{key}={name}: expected {PREFIX}USER/REPO or {PREFIX}USER/REPO@REVISION")
    try:
        from huggingface_hub import errors, hf_hub_download
        from huggingface_hub.utils import logging
    except ModuleNotFoundError as error:
        raise UserError(f'{key}={name}: needs huggingface_hub; pip install "cnnzoo[hub]"') from error
    logging.set_verbosity_error()  # it warns of each of its attempts
    try:
        return Path(hf_hub_download(match[1], WEIGHTS_FILE, revision=match[2]))
    except errors.RepositoryNotFoundError as error:
        problem = "there is no such repository, or it is private; for a private one, type hf auth login first"
        raise UserError(f"{key}={name}: {problem}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{key}={name}: the repository has no revision {match[2]}") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{key}={name}: the Hub cannot be reached, and the file is not in its cache") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{key}={name}: the repository has no {WEIGHTS_FILE}; expected one that share wrote") from error
    except Exception as error:  # of the HTTP client, the file system and the Hub
        raise UserError(f"{key}={name}: cannot be downloaded ({_first_line(error)}); try again") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:150]
