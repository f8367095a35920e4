"""The keys of each benchmark: which ones it reads, their values and defaults, and the files for the results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from cnnzoo.checks import check_bool, check_int, check_number
from cnnzoo.describe.tables import check_csv
from cnnzoo.errors import UserError, unknown
from cnnzoo.sizes import check_size

DEFAULT_SECONDS = {"data": 2.0, "hardware": 2.0, "graph": 2.0, "train": 4.0, "inference": 1.0, "gpu": 8.0}
JOBS = tuple(DEFAULT_SECONDS)
DEFAULT_BATCH_SIZES = {"hardware": 16, "graph": 16}
VARIANTS = ("eager", "compiled", "exported", "aoti", "onnx")
"""What `job=graph` compares."""
SPECIAL_KEYS = {
    "csv": ("data",),
    "images": ("data", "train"),
    "finalists": ("data",),
    "models": ("hardware",),
    "variants": ("graph",),
    "batch_sizes": ("inference",),
    "small": ("gpu",),
}
"""Keys of the job itself that only some benchmarks read."""
NETWORK_KEYS = ("model", "model.*", "data.image_size")
UNREAD_MODEL_KEYS = ("model.weights", "model.recipe")  # the speed does not depend on them
DEVICE_KEYS = ("seed", "trainer", "trainer.accelerator")
OTHER_KEYS = {
    "hardware": ("data.batch_size", "data.image_size", *DEVICE_KEYS),
    "graph": ("data.batch_size", *NETWORK_KEYS, *DEVICE_KEYS),
    "inference": ("compile", "channels_last", "trainer.precision", *NETWORK_KEYS, *DEVICE_KEYS),
    "gpu": DEVICE_KEYS,
}
"""The other keys that a benchmark reads; those that are missing here read all keys of training."""


def check_config(cfg: DictConfig, typed_keys: Sequence[str] = ()) -> None:
    """Check the job's own keys before anything is built, and replace their defaults; raises `UserError`.

    typed_keys: the keys that the user has set; those that the job does not read are errors.
    """
    if cfg.job not in JOBS:
        raise unknown("job", str(cfg.job), JOBS)
    for key in typed_keys:
        _check_key(cfg.job, key)
    if cfg.job == "train" and {"data", "images"} <= set(typed_keys):
        raise UserError("images: the number of generated images, of which there are none with data=...; leave one out")
    if cfg.seconds is None:
        cfg.seconds = DEFAULT_SECONDS[cfg.job]
    check_number("seconds", cfg.seconds, above=0, maximum=3600, note="(per measurement)")
    for key in ("rounds", "images", "finalists"):
        check_int(key, cfg[key], minimum=1)
    if cfg.data.cache.persist is not None:
        raise UserError(f"data.cache.persist={cfg.data.cache.persist}: a benchmark writes no cache; leave it out")
    if cfg.csv is not None:
        check_csv(Path(cfg.csv))
    if cfg.small != "auto":
        check_bool("small", cfg.small, note="or auto (true without a CUDA GPU)")
    for key, choices in (("models", None), ("variants", VARIANTS)):
        if cfg[key] is not None:
            cfg[key] = _check_names(key, cfg[key], choices)
    _check_sizes(cfg, typed_keys)
    cfg.json = _resolve_json(cfg.json, cfg.job)


def _check_key(job: str, key: str) -> None:
    """Raise UserError if the job does not read a key."""
    jobs = SPECIAL_KEYS.get(key)
    if jobs is not None and job not in jobs:
        users = " and ".join(f"job={name}" for name in jobs)
        raise UserError(f"{key}: only {users} {'reads' if len(jobs) == 1 else 'read'} it; leave it out")
    if jobs is not None or job not in OTHER_KEYS or key.startswith("hydra"):
        return
    if "model" in OTHER_KEYS[job] and key.startswith("model.") and key not in UNREAD_MODEL_KEYS:
        return
    own = [name for name, users in SPECIAL_KEYS.items() if job in users]
    keys = ("job", "seconds", "rounds", "json", *own, *OTHER_KEYS[job])
    if key not in keys:
        raise UserError(f"{key}: job={job} does not read it; leave it out (its keys: {', '.join(keys)})")


def _check_names(key: str, value: Any, choices: Sequence[str] | None) -> list[str]:
    """A list of names, each once; a single name is a list of one."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | ListConfig) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key}={value}: expected a list of names; type for example {key}=[{','.join(EXAMPLES[key])}]")
    for name in names:
        if choices is not None and name not in choices:
            raise unknown(key.removesuffix("s"), name, choices)
    return list(dict.fromkeys(names))


EXAMPLES = {"models": ("vgg16", "resnet50"), "variants": ("eager", "compiled")}


def _check_sizes(cfg: DictConfig, typed_keys: Sequence[str]) -> None:
    """Check the batch sizes and the image size of the benchmarks without images."""
    if cfg.job in DEFAULT_BATCH_SIZES and "data.batch_size" not in typed_keys:
        cfg.data.batch_size = DEFAULT_BATCH_SIZES[cfg.job]
    check_int("data.batch_size", cfg.data.batch_size, minimum=1)
    if cfg.data.image_size is not None:
        check_size("data.image_size", cfg.data.image_size)
    sizes = [cfg.batch_sizes] if isinstance(cfg.batch_sizes, int) else cfg.batch_sizes
    if not isinstance(sizes, list | ListConfig) or not sizes:
        raise UserError(f"batch_sizes={cfg.batch_sizes}: expected a list of numbers; type for example [1,16]")
    cfg.batch_sizes = sorted({check_int("batch_sizes", size, minimum=1, note="in the list") for size in sizes})


def _resolve_json(value: Any, job: str) -> str | None:
    """The file for the results: for `auto` one that does not exist yet, else the one that the user chose.

    job=data, whose result is a few keys to type, writes none by default.

    Raises UserError if it cannot be written, or if it or its chart exists.
    """
    if value is None or (value == "auto" and job == "data"):
        return None
    if value == "auto":
        names = (f"{job}_benchmark{number}.json" for number in ("", *(f"_{n}" for n in range(2, 10_000))))
        path = next(path for path in map(Path, names) if not path.exists() and not chart_path(path).exists())
    else:
        path = Path(value)
    check_csv(path, "json")
    for existing in (path, chart_path(path)):
        if existing.exists():
            raise UserError(f"json={path}: {existing} exists already; nothing is overwritten, so type another name")
    return str(path)


def chart_path(json_path: Path) -> Path:
    """The file for the chart of a benchmark, beside that of its results."""
    return json_path.with_name(f"{json_path.name.removesuffix('.json')}.png")
