"""The Lightning data module: combines a data set, the sampler, the augmentation, the cache and a loader."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from cnnzoo.checks import check_bool, check_choice, check_int
from cnnzoo.data.cache.cache import Cache, fill_once_per_machine
from cnnzoo.data.cache.fill import Progress
from cnnzoo.data.cache.shared_memory import ImageStore
from cnnzoo.data.loaders.gpu_placement import place_on_all_ranks
from cnnzoo.data.loaders.progressive import grow_images
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import BAD_FILE_POLICIES, TorchLoader
from cnnzoo.data.split import SPLITS, Source, Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.preprocess import Preprocess, normalize, per_channel
from cnnzoo.errors import UserError, unknown

STAGE_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
"""The splits that a stage of Lightning's trainer uses."""


class DataModule(pl.LightningDataModule):
    """The images of one data set, with a loader for each split. Constructing it lists files but reads no images.

    source: a class such as `ImageFolder`, called as `source(root=root, split_seed=split_seed)`.
    batch_size: per process.
    image_size, channels: requested by the user; None leaves the decision to `set_input` or the data set.
    start_size: the image size of the first training epochs under a trainer with `max_epochs`; it grows to `image_size`
        by `progressive_size`. None, and with `overfit_batches`: the same size in all epochs.
    balance: train on equally many images of each class, repeating those of small classes; see `EpochSampler`.
    loader: `TorchLoader` or a class like it, with its own options bound by `functools.partial`.
    fill_progress: shows the progress while the cache is filled; see `cnnzoo.data.cache.fill`.

    `proposed_image_size` and `proposed_channels` are the data set's. After `set_input`, `resolved_image_size`,
    `resolved_channels`, `resolved_mean`, `resolved_std`, `resolved_augment` and `preprocess` are set. After
    `resolve_cache`, `resolved_cache` is `cache` with a mode other than "auto".

    Without a trainer it acts as rank 0 of 1. Raises UserError for values out of range.
    """

    def __init__(
        self,
        source: Callable[..., Source],
        *,
        name: str | None = None,
        root: str | None = None,
        split_seed: int = 0,
        batch_size: int = 64,
        image_size: int | None = None,
        start_size: int | None = None,
        channels: int | None = None,
        balance: bool = False,
        seed: int = 0,
        augment: Augment = Augment(),  # noqa: B008 - a frozen dataclass
        cache: Cache = Cache(mode="none"),  # noqa: B008
        on_bad_file: Literal["error", "skip"] = "error",
        loader: Callable[..., Any] = TorchLoader,
        fill_progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if not callable(source):
            raise UserError(f"source={source}: expected a class such as ImageFolder, not its name or an instance")
        self.batch_size = check_int("data.batch_size", batch_size, minimum=1)
        check_int("data.split_seed", split_seed, minimum=0)
        if image_size is not None:
            image_size = check_int("data.image_size", image_size, minimum=1)
        if start_size is not None:
            start_size = check_int("data.start_size", start_size, minimum=1)
        if channels is not None:
            channels = int(check_choice("data.channels", channels, (1, 3), note="(1 is grey, 3 is RGB)"))
        self.balance = check_bool("data.balance", balance)
        self.seed = check_int("seed", seed, minimum=0)
        if not isinstance(augment, Augment):
            raise UserError(f"augment={augment}: expected an Augment, such as Augment(crop='padded')")
        if not isinstance(cache, Cache):
            raise UserError(f"cache={cache}: expected a Cache, such as Cache(mode='decoded')")
        check_choice("data.on_bad_file", on_bad_file, BAD_FILE_POLICIES)
        if not callable(loader):
            raise UserError(f"loader={loader}: expected a class such as TorchLoader")
        self.source = source(root=root, split_seed=split_seed)
        self.name = name or self.source.name
        self.classes = self.source.classes
        self.requested_image_size, self.requested_channels = image_size, channels
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
    def proposed_image_size(self) -> int:
        return self.source.image_size

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
        image_size: int,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        eval_resize: float | None = None,
    ) -> None:
        """Set the size, channels and normalization of the images that the network gets.

        `mean` and `std`, for pixel values from 0 to 1, and `eval_resize` are those that pretrained weights were trained
        with. Values set in `augment` take precedence; without either, the data set's statistics are used. The values of
        three channels are averaged for grey images, and one value is repeated for three channels. Closes the loaders
        and drops the cache. Raises UserError if `start_size` is larger than `image_size`.
        """
        if self.start_size is not None and self.start_size > image_size:
            raise UserError(
                f"data.start_size={self.start_size}: the image size is {image_size}; type a smaller data.start_size"
            )
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

    def variant(self, **changes: Any) -> "DataModule":
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
        return {
            "image_size": self.resolved_image_size,
            "eval_resize": self.resolved_augment.effective_eval_resize,
            "channels": self.resolved_channels,
            "mean": list(self.resolved_mean),
            "std": list(self.resolved_std),
        }

    def preprocessor(self) -> Preprocess:
        """`Preprocess` with the arguments `preprocess`."""
        return Preprocess(**self.preprocess)

    def setup(self, stage: str | None = None) -> None:
        """For stage "fit", fill the cache with train and val; test is not cached, because it is read only once.

        Uses the requested, else the proposed, size and channels if `set_input` was not called. With
        `trainer.fast_dev_run` nothing is cached.
        """
        if not self.input_resolved:
            self.set_input(
                image_size=self.requested_image_size or self.proposed_image_size,
                channels=self.requested_channels or self.proposed_channels,
            )
        fast_dev_run = bool(self.trainer and getattr(self.trainer, "fast_dev_run", False))
        if stage == "fit" and not self._stores and not fast_dev_run:
            self._close_loaders()
            self.resolve_cache()
            self._stores = fill_once_per_machine(
                self.resolved_cache,
                self._splits_to_cache(),
                channels=self.resolved_channels,
                on_bad_file=self.on_bad_file,
                verify_jpegs=getattr(self.build_loader("train"), "verifies_jpegs", False),
                trainer=self.trainer,
                progress=self.fill_progress,
            )
        if self.trainer is not None and self.trainer.strategy.root_device.type == "cuda":
            # Not with the first batch: all ranks call this, but a rank may have no batch of a small split.
            names = [name for name in STAGE_SPLITS.get(stage or "", ()) if self.split(name) is not None]
            place_on_all_ranks([self._loader(name) for name in names], self.trainer.world_size)

    def resolve_cache(self) -> None:
        """Set `resolved_cache`: `cache`, with "decoded" or "encoded" instead of the mode "auto".

        Filling the cache does this. Before that, it makes `build_loader` choose the loader for the filled cache.
        """
        self.setup()
        self.resolved_cache = self.resolved_cache.resolve(self._splits_to_cache(), self.resolved_channels)

    def _splits_to_cache(self) -> dict[str, Split]:
        splits = {name: self.split(name) for name in ("train", "val")}
        return {name: split for name, split in splits.items() if split is not None and split.paths is not None}

    def train_dataloader(self) -> Any:
        """The training loader. It is created once, and each iteration is its next epoch; see `Loader`.

        Without a trainer, the first call fills the cache as `setup("fit")` does.
        """
        if self.trainer is None and "train" not in self._loaders and self.cache.mode != "none":
            self.setup("fit")
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """The validation loader. It uses the cache if that has been filled, but does not fill it."""
        return self._loader("val")

    def test_dataloader(self) -> Any:
        """The test loader, or an empty list if there is no test split."""
        return self._loader("test") if self.has_test else []

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Copy the batch unless it is on the device; Lightning's method takes longer to find that out."""
        images, labels = batch
        non_blocking = device.type == "cuda"  # elsewhere the batch could be used before it is copied
        return images.to(device, non_blocking=non_blocking), labels.to(device, non_blocking=non_blocking)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalize the images to float32 (N, C, H, W), channels-last in memory; the labels are unchanged."""
        images, labels = batch
        return normalize(images, self.resolved_mean, self.resolved_std), labels

    def state_dict(self) -> dict[str, Any]:
        """The completed batches of this epoch, and the properties of the data that must not change until resuming."""
        completed = 0
        if self.trainer is not None:
            batches = self.trainer.num_training_batches
            completed = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
            completed = int(completed % batches) if batches else 0  # a completed epoch: the next one starts at 0
        return {"batch": completed, **self._fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the completed batches. Raises UserError if the data or the images per step have changed."""
        for name, value in self._fingerprint().items():
            saved = state_dict[name]
            if value == saved:
                continue
            if name == "images per step":
                raise UserError(
                    f"data.batch_size={self.batch_size}: {value} images per step on all devices together, expected "
                    f"{saved} as before the run was stopped; type data.batch_size={saved * self.batch_size // value}"
                )
            raise UserError(f"the data has changed since this run was stopped: {name} were {saved}, are now {value}")
        self._start_batch = state_dict["batch"]
        if "train" in self._loaders:
            self._loaders["train"].sampler.start_at(self._start_batch)

    def _fingerprint(self) -> dict[str, Any]:
        train = self.split("train")
        assert train is not None
        world_size = self.trainer.world_size if self.trainer else 1
        return {
            "classes": list(self.classes),
            "training images": len(train),
            "images per step": self.batch_size * world_size,
        }

    def teardown(self, stage: str | None = None) -> None:
        self._close_loaders()
        self._stores = {}

    def build_loader(self, name: str, *, start_batch: int = 0) -> Any:
        """Build a new loader of the split; its first iteration begins at `start_batch`. The caller closes it.

        It uses the cache if that has been filled, but does not fill it.
        """
        self.setup()
        split = self.split(name)
        assert split is not None
        if split.paths is not None:
            # Another process of this machine may have filled the cache, in another mode than this one expected.
            filled = [store.channels is not None for store in self._stores.values()]
            cache_decodes = any(filled) if filled else self.resolved_cache.mode == "decoded"
            split = replace(split, store=self._stores.get(name), cache_decodes=cache_decodes)
        trainer = self.trainer
        sampler = EpochSampler(
            len(split),
            self.batch_size,
            seed=self.seed,
            train=name == "train",
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            frozen=bool(trainer and getattr(trainer, "overfit_batches", 0)),
            labels=split.labels if self.balance else None,
        )
        sampler.start_at(start_batch)
        loader = self.loader(
            split,
            sampler,
            augment=self.resolved_augment,
            train=name == "train",
            image_size=self.resolved_image_size,
            channels=self.resolved_channels,
            seed=self.seed,
            on_bad_file=self.on_bad_file,
            device=trainer.strategy.root_device if trainer else None,
            local_ranks=trainer.num_devices if trainer else None,
        )
        if self.start_size is not None and name == "train" and trainer is not None and not sampler.frozen:
            grow_images(loader, start=self.start_size, epochs=trainer.max_epochs)
        return loader

    def _loader(self, name: str) -> Any:
        """The split's loader. It is created once, so that its workers stay alive between epochs."""
        if name not in self._loaders:
            start_batch = 0
            if name == "train":
                start_batch, self._start_batch = self._start_batch, 0
            self._loaders[name] = self.build_loader(name, start_batch=start_batch)
        return self._loaders[name]

    def _close_loaders(self) -> None:
        for loader in self._loaders.values():
            loader.close()
        self._loaders = {}
