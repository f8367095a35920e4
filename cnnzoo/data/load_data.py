"""`load_data`: the loaders of a data set for a training loop in plain PyTorch, without Lightning and Hydra."""

import atexit
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor

from cnnzoo.checks import check_bool, check_int
from cnnzoo.data.cache.cache import MODES, Cache
from cnnzoo.data.cache.progress import cache_progress
from cnnzoo.data.fingerprint import check_fingerprint, fingerprint
from cnnzoo.data.image_data import ImageData
from cnnzoo.data.loaders.auto import auto_loader
from cnnzoo.data.loaders.base import Loader
from cnnzoo.data.loaders.dali_loader import DaliLoader
from cnnzoo.data.loaders.gpu_placement import place_on_all_ranks
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.loaders.transfer import to_device
from cnnzoo.data.presets import named_augment, named_source
from cnnzoo.data.ranks import Ranks, current_ranks
from cnnzoo.data.split import Source, Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.preprocess import Preprocess
from cnnzoo.errors import UserError, unknown
from cnnzoo.sizes import Size

LOADERS = {"auto": auto_loader, "torch": TorchLoader, "dali": DaliLoader}

_open_data: WeakSet[ImageData] = WeakSet()  # not closed yet


def load_data(
    source: str | Callable[..., Source] | Source = "folder",
    *,
    root: str | None = None,
    image_size: int | Sequence[int] | None = None,
    batch_size: int = 64,
    augment: str | Augment | None = None,
    cache: Literal["none", "encoded", "decoded", "auto"] | Cache = "auto",
    device: torch.device | str | int | None = None,
    normalize: bool = True,
    loader: Literal["auto", "torch", "dali"] | Callable[..., Loader] = "auto",
    workers: int | Literal["auto"] = "auto",
    channels: int | None = None,
    bits: Literal[8, 16] = 8,
    fit: Literal["crop", "pad", "squash"] | None = None,
    balance: bool = False,
    on_bad_file: Literal["error", "skip"] = "error",
    split_seed: int = 0,
    seed: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    even_batches: bool = True,
    **source_options: Any,
) -> "DataLoaders":
    """Load a data set for a training loop in plain PyTorch.

    ```python
    data = cnnzoo.load_data("folder", root="~/flowers", image_size=224, augment="imagenet")
    for epoch in range(90):
        for images, labels in data.train:  # normalized float32 (N, C, H, W) and int64 (N,), on the device
            ...
    ```

    Lists the files, checks the arguments, and fills the cache with the images of train and val before it returns.

    source: a data set by its name in `data=` ("folder", "cifar10", "digits", ...), or a class like those of
        `cnnzoo.data`, or an instance of one.
    root: the directory of the images, for data sets that have one.
    image_size: of the batches, in pixels: an int for squares, or (height, width). None: proposed by the data set.
    batch_size: images per batch and process.
    augment: of the training images: a name in `augment=` ("imagenet", "cifar", "light", "none", ...), or an `Augment`.
        None: the usual one of the data set; "light" for classes and instances.
    cache: what to keep in RAM of image files: the mode of a `Cache` ("none", "encoded", "decoded" or "auto"), or a
        `Cache`.
    device: the device of the batches. None: the GPU that PyTorch currently uses, or the CPU if there is none.
    normalize: False yields uint8 (with 16 bits: uint16) images as they are before normalization.
    loader: "auto", "torch" or "dali", or a class like `TorchLoader`; `functools.partial` binds its other options.
    workers: of the loader; "auto": none for data sets in memory, else one per core.
    channels: 1 (grey), 3 (RGB), or another number for TIFF and NumPy files; None: as in the data set.
    bits: 8, or 16 to keep the values of 16-bit PNG, TIFF and NumPy files.
    fit: how images of another aspect ratio are made to fit the image size: "crop", "pad" or "squash", see `Augment`.
    balance: train on equally many images of each class, repeating those of small classes.
    on_bad_file: "error" raises UserError for files that cannot be read, "skip" logs them and leaves them out.
    split_seed: of the splits that the data set lacks.
    seed: of the order of the training images and of their augmentation.
    rank, world_size: which of several processes this one is. None: as in `torch.distributed`, and then all processes
        must call this function, and those of one machine share one cache. If they are given, the processes do not
        communicate, and each has its own cache.
    even_batches: with several processes, a process that would have one batch of val or test fewer than the others gets
        an image again, so that they can communicate in each batch. False: each image comes exactly once.
    source_options: further arguments of the data set's class.

    Raises UserError for wrong arguments and for data that cannot be read.
    """
    augment_name = "light"
    if isinstance(source, str):
        source, augment_name = named_source(source)
    if not isinstance(augment, Augment):
        augment = named_augment(augment_name if augment is None else str(augment))
    if not isinstance(cache, Cache):
        cache = Cache(mode=_known("cache", cache, {mode: mode for mode in MODES}))
    loader_class = _known("loader", loader, LOADERS) if isinstance(loader, str) else loader
    data = ImageData(
        _source_class(source, root, source_options),
        root=root,
        split_seed=split_seed,
        batch_size=batch_size,
        image_size=image_size,
        fit=fit,
        channels=channels,
        bits=bits,
        balance=balance,
        seed=seed,
        augment=augment,
        cache=cache,
        on_bad_file=on_bad_file,
        loader=loader_class if workers == "auto" else partial(loader_class, workers=workers),
        fill_progress=cache_progress,
    )
    data.device = _device(device)
    data.even_batches = check_bool("even_batches", even_batches)
    check_bool("normalize", normalize)
    if rank is None and world_size is None:
        data.ranks = current_ranks()
    else:
        world_size = check_int("world_size", world_size, minimum=1, note="with rank")
        rank = check_int("rank", rank, minimum=0, maximum=world_size - 1, note="with world_size")
        data.ranks, data.shares_cache = Ranks(rank, world_size), False
    data.fill_cache()
    return DataLoaders(data, normalize)


class DataLoaders:
    """The loaders of the splits of a data set, made by `load_data`.

    `train`, `val` and `test` are `SplitLoader`s; `test` is None if the data set has no such split. `classes` are the
    names of the classes in the order of the labels. The batches are on `device`, and their images have `image_size`
    (height, width) and `channels`. `preprocess` converts a single image as evaluation does, see `Preprocess`.

    The workers stop when this object and the loaders are deleted, when the process ends, and at `close` or the end of
    a `with` block. After that the loaders cannot be used.
    """

    def __init__(self, data: ImageData, normalize: bool) -> None:
        self._data = data
        _open_data.add(data)
        assert data.device is not None
        self.classes: tuple[str, ...] = data.classes
        self.device: torch.device = data.device
        self.image_size: Size = data.resolved_image_size
        self.channels: int = data.resolved_channels
        self.preprocess: Preprocess = data.preprocessor()
        self.train: SplitLoader = SplitLoader(data, "train", normalize)
        self._val: SplitLoader | None
        self.test: SplitLoader | None
        self._val, self.test = (
            None if data.split(name) is None else SplitLoader(data, name, normalize) for name in ("val", "test")
        )
        if data.device.type == "cuda":
            loaders = [data.get_loader(name) for name in ("train", "val") if data.split(name) is not None]
            place_on_all_ranks(loaders, data.ranks.world_size if data.shares_cache else 1)

    @property
    def val(self) -> "SplitLoader":
        """Raises UserError if the data set has no such split, which none of cnnzoo's lacks."""
        if self._val is None:
            raise UserError("val: the data set has no validation images: its split('val') returned None")
        return self._val

    def close(self) -> None:
        """Stop the workers, and free the cache and the memory on the GPU."""
        _open_data.discard(self._data)
        self._data.close()

    def __enter__(self) -> "DataLoaders":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SplitLoader:
    """The batches of one split: each iteration is the next epoch, from 0; see `load_data`.

    An iteration can be stopped anywhere, and a new one makes it invalid. `dataset` is the split, whose length is the
    number of its images on all ranks. `sampler` and `batch_sampler` are for loops that call `set_epoch` there.
    """

    batch_sampler: None = None

    def __init__(self, data: ImageData, name: str, normalize: bool) -> None:
        self.name, self.normalize = name, normalize
        self.batch_size = data.batch_size
        self._data = data
        data.get_loader(name)  # raises for settings that it does not accept; starts no workers
        self._epoch = self._batch = 0  # the position: the epoch, and how many of its batches were taken
        self._first_batch = 0  # of the next iteration

    @property
    def loader(self) -> Loader:
        """The `Loader` that makes the batches. Raises RuntimeError if it has been closed."""
        if self._data not in _open_data:
            raise RuntimeError("the loaders have been closed; call load_data again")
        loader: Loader = self._data.get_loader(self.name)
        return loader

    @property
    def dataset(self) -> Split:
        return self.loader.split

    @property
    def sampler(self) -> "SplitLoader":
        return self

    def __len__(self) -> int:
        """The number of batches of this process in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # As a generator this runs only when the first batch is requested, so `set_epoch` works after `iter()`, too.
        loader, data = self.loader, self._data
        assert data.device is not None
        batch, self._first_batch = self._first_batch, 0
        for images, labels in loader:
            batch += 1
            ended = batch == len(loader)
            self._epoch, self._batch = loader.sampler.epoch + ended, 0 if ended else batch
            images, labels = to_device((images, labels), data.device)
            yield data.normalize(images) if self.normalize else images, labels

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of every iteration until the next call, as in torch's `DistributedSampler`.

        Without this call, each iteration is the next epoch. After `load_state_dict`, the epoch of the saved position
        continues at its batch, and another epoch begins at its first batch.
        """
        epoch = check_int("epoch", epoch, minimum=0)
        self.loader.set_epoch(epoch)
        if epoch != self._epoch:
            self._start_at(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The position after the batch that was taken last, and the properties that must be the same when resuming."""
        return {"epoch": self._epoch, "batch": self._batch, "seed": self._data.seed, **fingerprint(self._data)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Start the next iteration at the saved position. Raises UserError if the data or the order has changed."""
        check_fingerprint(self._data, state_dict)
        if state_dict["seed"] != self._data.seed:
            raise UserError(
                f"seed={self._data.seed}: gives another order than before the run was stopped; pass "
                f"seed={state_dict['seed']}"
            )
        self._start_at(state_dict["epoch"], state_dict["batch"])
        self.loader.sampler.start_at(self._batch, epoch=self._epoch)

    def _start_at(self, epoch: int, batch: int) -> None:
        self._epoch, self._batch, self._first_batch = epoch, batch, batch
        self.loader.sampler.start_at(batch)


@atexit.register
def _close_open_data() -> None:
    """Stop the workers while the interpreter is still complete; afterwards, modules lose their contents."""
    for data in list(_open_data):
        data.close()


def _source_class(source: Any, root: str | None, options: dict[str, Any]) -> Callable[..., Any]:
    """The class of the data set, bound to its options; of an instance, a function that returns it."""
    if hasattr(source, "split") and not isinstance(source, type):
        given = {"root": root, **options} if root is not None else options
        for name, value in given.items():
            raise UserError(f"{name}={value}: the {type(source).__name__} exists already; leave it out")
        return lambda **_: source
    if not callable(source):
        raise UserError(f"source={source}: expected a name such as folder, or a class or instance like ImageFolder")
    parameters = inspect.signature(source).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        names = {*inspect.signature(load_data).parameters, *parameters} - {"source_options"}
        for name in options.keys() - names:
            raise unknown("argument", name, sorted(names))
    return partial(source, **options)


def _known(key: str, name: Any, choices: Mapping[str, Any]) -> Any:
    """The choice with that name. Raises UserError for an unknown name."""
    if name not in choices:
        raise unknown(key, str(name), choices)
    return choices[name]


def _device(device: torch.device | str | int | None) -> torch.device:
    """The device with its index. Raises UserError if there is no such device."""
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device}: PyTorch has no such device here; type another, or leave it out") from error
    if device.type != "cpu" and device.index is None:
        device = torch.device(device.type, torch.accelerator.current_device_index())
    return device
