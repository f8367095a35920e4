"""The images of one data set, with a loader per split: combines the source, sampler, augmentation, cache and loader."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from cnnzoo.checks import check_bool, check_choice, check_int
from cnnzoo.data.cache.cache import Cache, fill_once_per_machine
from cnnzoo.data.cache.fill import Progress
from cnnzoo.data.cache.shared_memory import ImageStore
from cnnzoo.data.input_checks import check_augment, check_fit, check_pixels
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import BAD_FILE_POLICIES, TorchLoader
from cnnzoo.data.ranks import Ranks
from cnnzoo.data.split import SPLITS, Source, Split
from cnnzoo.data.statistics import measure_statistics
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.pixel_format import check_bits, check_channels, is_plain
from cnnzoo.data.transforms.preprocess import Preprocess, normalize, per_channel
from cnnzoo.errors import UserError, unknown
from cnnzoo.sizes import Size, as_size, check_size, size_override

Images = TypeVar("Images", bound="ImageData")


class ImageData:
    """The images of one data set, with a loader for each split. Constructing it lists files but reads no images.

    source: a class such as `ImageFolder`, called as `source(root=root, split_seed=split_seed, **source_options)`.
    batch_size: per process.
    image_size, channels: requested by the user; None leaves the decision to `set_input` or the data set. An image size
        is an int for a square, or (height, width).
    bits: 8, or 16 to keep the values of 16-bit PNG, TIFF and NumPy files as they are. Batches are then uint16.
    fit: how images of another aspect ratio are made to fit the image size, in training and in evaluation: "crop", "pad"
        or "squash", see `Augment`. None: that of `augment`.
    start_size: the shorter side of the images in the first training epochs under a trainer with `max_epochs`; it grows
        to that of `image_size` by `progressive_size`. None, and with `overfit_batches`: the same size in all epochs.
    balance: train on equally many images of each class, repeating those of small classes; see `EpochSampler`.
    loader: `TorchLoader` or a class like it, with its own options bound by `functools.partial`.
    fill_progress: shows the progress while the cache is filled; see `cnnzoo.data.cache.fill`.

    `proposed_image_size` and `proposed_channels` are the data set's. After `set_input`, `resolved_image_size`,
    `resolved_channels`, `resolved_mean`, `resolved_std`, `resolved_augment` and `preprocess` are set. After
    `resolve_cache`, `resolved_cache` is `cache` with a mode other than "auto".

    Set `ranks` and `device` before the first loader is built: which of several processes this one is, and the device
    that the batches are used on (None: unknown). Raises UserError for values out of range.
    """

    ranks: Any = Ranks()  # or a trainer of Lightning
    device: torch.device | None = None
    shares_cache = True  # whether the ranks of a machine share one cache, for which they communicate
    frozen = False  # whether each training epoch is the first one again
    even_batches = False  # whether the ranks have equally many batches in evaluation; see `EpochSampler`

    def __init__(
        self,
        source: Callable[..., Source],
        *,
        name: str | None = None,
        root: str | None = None,
        split_seed: int = 0,
        batch_size: int = 64,
        image_size: int | Sequence[int] | None = None,
        fit: Literal["crop", "pad", "squash"] | None = None,
        start_size: int | None = None,
        channels: int | None = None,
        bits: int = 8,
        balance: bool = False,
        seed: int = 0,
        augment: Augment = Augment(),  # noqa: B008 - a frozen dataclass
        cache: Cache = Cache(mode="none"),  # noqa: B008
        on_bad_file: Literal["error", "skip"] = "error",
        loader: Callable[..., Any] = TorchLoader,
        fill_progress: Progress | None = None,
        **source_options: Any,
    ) -> None:
        super().__init__()  # that of Lightning's data module, in `DataModule`
        if not callable(source):
            raise UserError(f"source={source}: expected a class such as ImageFolder, not its name or an instance")
        self.batch_size = check_int("data.batch_size", batch_size, minimum=1)
        check_int("data.split_seed", split_seed, minimum=0)
        requested_size = None if image_size is None else check_size("data.image_size", image_size)
        if start_size is not None:
            start_size = check_int("data.start_size", start_size, minimum=1, note="(the shorter side)")
        if channels is not None:
            channels = check_channels("data.channels", channels)
        self.bits = check_bits("data.bits", bits)
        self.balance = check_bool("data.balance", balance)
        self.seed = check_int("seed", seed, minimum=0)
        if not isinstance(augment, Augment):
            raise UserError(f"augment={augment}: expected an Augment, such as Augment(crop='padded')")
        augment = replace(augment, fit=fit or augment.fit)
        check_fit(augment)
        if not isinstance(cache, Cache):
            raise UserError(f"cache={cache}: expected a Cache, such as Cache(mode='decoded')")
        check_choice("data.on_bad_file", on_bad_file, BAD_FILE_POLICIES)
        if not callable(loader):
            raise UserError(f"loader={loader}: expected a class such as TorchLoader")
        source_options = {name: value for name, value in source_options.items() if value is not None}
        self.source = source(root=root, split_seed=split_seed, **source_options)
        missing_files = getattr(self.source, "missing_files", None)  # of `ImageFiles`
        if missing_files is not None and on_bad_file == "error":
            raise UserError(missing_files)
        self.name = name or self.source.name
        self.classes = self.source.classes
        self.requested_image_size, self.requested_channels = requested_size, channels
        self.start_size = start_size
        self.augment, self.loader = augment, loader
        self.cache = self.resolved_cache = cache
        self.on_bad_file = on_bad_file
        self.fill_progress = fill_progress
        self.input_resolved = False
        self._stores: dict[str, ImageStore] = {}
        self._loaders: dict[str, Any] = {}
        self._start_batch = 0  # the batch of its epoch that training starts with

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def proposed_image_size(self) -> Size:
        return as_size(self.source.image_size)

    @property
    def proposed_channels(self) -> int:
        """1 if the images are grey, else 3."""
        return self.source.channels

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test", or None if the data set has no such split."""
        if name not in SPLITS:
            raise unknown("split", str(name), SPLITS)
        return self.source.split(name)

    @property
    def has_test(self) -> bool:
        return self.split("test") is not None

    def set_input(
        self,
        *,
        image_size: int | Size,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        eval_resize: float | None = None,
    ) -> None:
        """Set the size, channels and normalization of the images that the network gets.

        `mean` and `std`, for pixel values from 0 to 1, and `eval_resize` are those that pretrained weights were trained
        with. Values set in `augment` take precedence; without either, the data set's statistics are used. The values of
        three channels are averaged for grey images, and one value is repeated for all channels. For more channels and
        for 16 bits, the statistics are measured on training images instead of those of the weights and the data set.
        Closes the loaders and drops the cache. Raises UserError if `start_size` is larger than `image_size`, and for
        settings of the augmentation that do not suit the images.
        """
        image_size = as_size(image_size)
        if self.start_size is not None and self.start_size > min(image_size):
            raise UserError(
                f"data.start_size={self.start_size}: the image size is {size_override(image_size)}; type a smaller "
                "data.start_size"
            )
        check_augment(self.augment, image_size, channels, self.bits)
        if not is_plain(channels, self.bits):
            train = self.split("train")
            assert train is not None
            check_pixels(self.name, train, channels, self.bits)
            if self.augment.mean is None or self.augment.std is None:
                mean, std = measure_statistics(train, channels, self.bits)
        self.resolved_image_size, self.resolved_channels = image_size, channels
        self.resolved_mean = per_channel("mean", self.augment.mean or mean or self.source.mean, channels)
        self.resolved_std = per_channel("std", self.augment.std or std or self.source.std, channels)
        self.resolved_augment = replace(
            self.augment,
            mean=self.resolved_mean,
            std=self.resolved_std,
            eval_resize=self.augment.eval_resize or eval_resize,
        )
        self.input_resolved = True
        self._close_loaders()  # they were created for the previous size
        self._stores, self.resolved_cache = {}, self.cache

    def variant(self: Images, **changes: Any) -> Images:
        """A copy with other attributes (`loader`, `cache` or `source`), the same resolved input, and its own loaders.

        The copy shares the filled cache unless `cache` or `source` changes.
        """
        other = copy(self)
        other._loaders = {}
        for name, value in changes.items():
            setattr(other, name, value)
        if {"cache", "source"} & set(changes):
            other._stores, other.resolved_cache = {}, other.cache
        return other

    @property
    def preprocess(self) -> dict[str, Any]:
        """The arguments of `Preprocess`, as plain types, that process an image as evaluation does."""
        return self.preprocessor().arguments

    def preprocessor(self) -> Preprocess:
        """`Preprocess` that processes an image as evaluation does."""
        return Preprocess(
            self.resolved_image_size,
            self.resolved_augment.effective_eval_resize,
            self.resolved_channels,
            self.resolved_mean,
            self.resolved_std,
            self.resolved_augment.fit,
            self.bits,
        )

    def resolve_input(self) -> None:
        """Use the requested, else the proposed, size and channels if `set_input` was not called."""
        if not self.input_resolved:
            self.set_input(
                image_size=self.requested_image_size or self.proposed_image_size,
                channels=self.requested_channels or self.proposed_channels,
            )

    def fill_cache(self) -> None:
        """Fill the cache with train and val, unless it is filled; test is not cached, because it is read only once."""
        if self._stores:
            return
        self._close_loaders()
        self.resolve_cache()
        self._stores = fill_once_per_machine(
            self.resolved_cache,
            self._splits_to_cache(),
            channels=self.resolved_channels,
            bits=self.bits,
            on_bad_file=self.on_bad_file,
            verify_jpegs=getattr(self.build_loader("train"), "verifies_jpegs", False),
            ranks=self.ranks if self.shares_cache else Ranks(),
            progress=self.fill_progress,
        )

    def resolve_cache(self) -> None:
        """Set `resolved_cache`: `cache`, with "decoded" or "encoded" instead of the mode "auto".

        Filling the cache does this. Before that, it makes `build_loader` choose the loader for the filled cache.
        """
        self.resolve_input()
        self.resolved_cache = self.resolved_cache.resolve(self._splits_to_cache(), self.resolved_channels, self.bits)

    def _splits_to_cache(self) -> dict[str, Split]:
        splits = {name: self.split(name) for name in ("train", "val")}
        return {name: split for name, split in splits.items() if split is not None and split.has_files}

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 or uint16 images (N, C, H, W) to normalized float32, channels-last in memory."""
        return normalize(images, self.resolved_mean, self.resolved_std)

    def build_loader(self, name: str, *, start_batch: int = 0) -> Any:
        """Build a new loader of the split; its first iteration begins at `start_batch`. The caller closes it.

        It uses the cache if that has been filled, but does not fill it.
        """
        self.resolve_input()
        split = self.split(name)
        assert split is not None
        if split.has_files:
            # Another process of this machine may have filled the cache, in another mode than this one expected.
            filled = [store.channels is not None for store in self._stores.values()]
            cache_decodes = any(filled) if filled else self.resolved_cache.mode == "decoded"
            split = replace(split, store=self._stores.get(name), cache_decodes=cache_decodes)
        ranks = self.ranks
        sampler = EpochSampler(
            len(split),
            self.batch_size,
            seed=self.seed,
            train=name == "train",
            rank=ranks.global_rank,
            world_size=ranks.world_size,
            frozen=self.frozen,
            labels=split.labels if self.balance else None,
            even_batches=self.even_batches,
        )
        sampler.start_at(start_batch)
        return self.loader(
            split,
            sampler,
            augment=self.resolved_augment,
            train=name == "train",
            image_size=self.resolved_image_size,
            channels=self.resolved_channels,
            bits=self.bits,
            seed=self.seed,
            on_bad_file=self.on_bad_file,
            device=self.device,
            local_ranks=ranks.num_devices,
        )

    def start_at(self, batch: int) -> None:
        """Start the next training epoch, and only that one, at this batch."""
        self._start_batch = batch
        if "train" in self._loaders:
            self._loaders["train"].sampler.start_at(batch)

    def get_loader(self, name: str) -> Any:
        """The split's loader. It is built by the first call and kept, so that its workers live from epoch to epoch."""
        if name not in self._loaders:
            start_batch = 0
            if name == "train":
                start_batch, self._start_batch = self._start_batch, 0
            self._loaders[name] = self.build_loader(name, start_batch=start_batch)
        return self._loaders[name]

    def close(self) -> None:
        """Stop the workers and drop the cache; the next loader starts new workers."""
        self._close_loaders()
        self._stores = {}

    def _close_loaders(self) -> None:
        for loader in self._loaders.values():
            loader.close()
        self._loaders = {}
