"""The settings of the job predict, checked before anything is loaded. Nothing here imports torch."""

import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnzoo.checks import check_bool, check_choice, check_int
from cnnzoo.errors import UserError

FORMATS = ("table", "json", "csv")
SUFFIXES = {".txt": "table", ".json": "json", ".jsonl": "json", ".csv": "csv"}
"""The format of the results that a file's suffix stands for."""
PRECISIONS = ("auto", "32", "bf16")


def check_config(cfg: Any) -> None:
    """Raise UserError for a setting that is missing, out of range, or contradicts another one."""
    if not cfg.images:
        raise UserError("images: nothing to classify; type images=FILE, images=DIR or images='DIR/*.jpg'")
    check_int("topk", cfg.topk, minimum=1)
    if cfg.batch_size != "auto":
        check_int("batch_size", cfg.batch_size, minimum=1, note="or auto")
    check_choice("precision", str(cfg.precision), PRECISIONS)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(cfg.device)):
        raise UserError(f"device={cfg.device}: expected auto, cpu, cuda or mps; cuda:1 is the second GPU")
    if cfg.format is not None:
        check_choice("format", cfg.format, FORMATS)
    check_bool("explain", cfg.explain)
    check_bool("trust_code", cfg.trust_code)
    check_int("explain_limit", cfg.explain_limit, minimum=1)
    if cfg.layer is not None and not cfg.explain:
        raise UserError(f"layer={cfg.layer}: selects the feature maps to draw; also type explain=true")
    if cfg.explain:
        missing = [name for name in ("captum", "matplotlib") if find_spec(name) is None]
        if missing:
            raise UserError(f'explain=true needs {" and ".join(missing)}: type pip install "cnnzoo[explain]"')
    if cfg.out is not None:
        _check_out(Path(str(cfg.out)), cfg.explain, cfg.format)


def _check_out(out: Path, explain: bool, output_format: str | None) -> None:
    key = f"out={out}"
    if out.exists() or out.is_symlink():
        kind = "directory" if out.is_dir() else "file"
        raise UserError(f"{key}: this {kind} exists already; type another name")
    suffix_format = SUFFIXES.get(out.suffix.lower())
    if explain and suffix_format:
        raise UserError(f"{key}: with explain=true it is the directory for the pictures; type out=DIR > {out}")
    if not explain and output_format and suffix_format and output_format != suffix_format:
        raise UserError(f"format={output_format}: {key} stands for format={suffix_format}; leave one of them out")


def results_format(cfg: Any) -> str:
    """One of `FORMATS`: `cfg.format`, else what the suffix of the output file stands for, else a table."""
    suffix = "" if cfg.out is None or cfg.explain else Path(str(cfg.out)).suffix.lower()
    return str(cfg.format or SUFFIXES.get(suffix, "table"))


def pictures_dir(cfg: Any) -> Path:
    """The directory for the pictures of explain=true."""
    name = cfg.out or f"explanations/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    return Path(str(name))
