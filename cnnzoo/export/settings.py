"""The settings of an export, checked before torch is imported, and the name of the file."""

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from cnnzoo.checks import check_bool, check_choice, check_int, check_number
from cnnzoo.errors import UserError, unknown
from cnnzoo.sizes import check_size


@dataclass(frozen=True)
class Format:
    """What an export format needs.

    suffix: of its files; only the part after the last dot is required.
    keys: the keys of the job that have a meaning only for some formats, this one among them.
    packages: that are imported; `extra` of cnnzoo installs them.
    needs_run: whether it needs the images of a run.
    """

    suffix: str
    keys: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str = ""
    needs_run: bool = False


ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
DATA_KEYS = ("data.root", "data.path", "data.batch_size")
FORMATS = {
    "pt2": Format(".pt2", keys=("image_size", "preprocess")),
    "onnx": Format(".onnx", keys=("image_size", "preprocess"), packages=ONNX_PACKAGES, extra="onnx"),
    "aoti": Format(".aoti.pt2", keys=("image_size", "preprocess", "device")),
    "safetensors": Format(".safetensors"),
    "compressed": Format(
        ".compressed.safetensors",
        keys=("sparsity", "bits", "epochs", "lr", "device", *DATA_KEYS),
        needs_run=True,
    ),
    "int8": Format(
        ".int8.onnx",
        keys=DATA_KEYS,
        packages=("torchao", *ONNX_PACKAGES),
        extra="int8",
        needs_run=True,
    ),
}
SPECIAL_KEYS = tuple(dict.fromkeys(key for format_ in FORMATS.values() for key in format_.keys))


def check_settings(cfg: DictConfig, typed: Collection[str]) -> None:
    """Raise UserError for an invalid value, a key that the format does not use, and a package that is not installed.

    typed: the keys that the user has set.
    """
    if cfg.format not in FORMATS:
        raise unknown("format", str(cfg.format), FORMATS)
    if cfg.checkpoint is not None:
        check_choice("checkpoint", cfg.checkpoint, ("best", "last"))
    chosen = FORMATS[cfg.format]
    for key in SPECIAL_KEYS:
        if key in typed and key not in chosen.keys:
            users = " or ".join(f"format={name}" for name, format_ in FORMATS.items() if key in format_.keys)
            raise UserError(f"{key}: not used with format={cfg.format}, only with {users}; leave it out")
    if chosen.needs_run and cfg.run is None:
        raise UserError(f"format={cfg.format}: needs the training images of a run; type run=DIR")
    _check_values(cfg)
    if cfg.out is not None:
        check_out(Path(cfg.out), cfg.format)
    if cfg.format == "aoti":
        check_compiler()
    for package in chosen.packages:
        if find_spec(package) is None:
            raise UserError(
                f'format={cfg.format}: {package} is not installed; type pip install "cnnzoo[{chosen.extra}]"'
            )


def _check_values(cfg: DictConfig) -> None:
    if cfg.image_size is not None:
        check_size("image_size", cfg.image_size)
    check_bool("preprocess", cfg.preprocess)
    check_choice("device", cfg.device, ("auto", "cpu", "cuda"))
    check_number("sparsity", cfg.sparsity, minimum=0, below=1, note="(the fraction of weights that become zero)")
    check_int("bits", cfg.bits, minimum=1, maximum=8)
    check_int("epochs", cfg.epochs, minimum=0)
    check_number("lr", cfg.lr, above=0)
    if cfg.data.batch_size is not None:
        check_int("data.batch_size", cfg.data.batch_size, minimum=1)


def default_out(network: str, format_name: str) -> Path:
    """`<network>.<format's suffix>` in the current directory."""
    return Path(network + FORMATS[format_name].suffix)


def check_out(out: Path, format_name: str) -> None:
    """Raise UserError if `out` exists, does not end as the format's files do, or cannot be written."""
    ending = f".{FORMATS[format_name].suffix.rpartition('.')[2]}"
    if out.suffix != ending:
        raise UserError(f"out={out}: expected a file name that ends with {ending} for format={format_name}")
    if out.exists():
        raise UserError(f"out={out}: exists already, and nothing is overwritten; type out=FILE with another name")
    if not out.parent.is_dir():
        raise UserError(f"out={out}: the directory {out.parent} does not exist; create it, or type another file")
    probe = out.with_name(f".{out.name}.tmp")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"out={out}: cannot be written: {error.strerror}; type another file") from error


def check_compiler() -> None:
    """Raise UserError if there is no C++ compiler, with which AOTInductor compiles."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"format=aoti: needs the C++ compiler {compiler}, which is not installed; install it, or type format=onnx"
        )


def resolve_device(device: str) -> str:
    """`auto` as "cuda" if there is such a GPU, else "cpu". Raises UserError if there is none for "cuda"."""
    import torch  # here: nothing above needs it, and it takes seconds

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no such device; type device=cpu")
    return device
