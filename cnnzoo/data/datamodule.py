"""The Lightning data module: a source, an order, an augmentation and a loader, put together."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import pytorch_lightning as pl
from torch import Tensor

from cnnzoo.data.cache.cache import Cache, fill_once_per_machine
from cnnzoo.data.cache.fill import Progress
from cnnzoo.data.cache.shared_memory import ImageStore
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import BAD_FILE_POLICIES, TorchLoader
from cnnzoo.data.split import SPLITS, Source, Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.preprocess import Preprocess, normalize
from cnnzoo.errors import UserError


class DataModule(pl.LightningDataModule):
    """All that a net is trained and tested on. Building one lists files and nothing more.

    `source` is called as `source(root=root, split_seed=split_seed)`; `loader` is `TorchLoader` or one like it, its
    own options bound with functools.partial. `batch_size` is per process. `image_size` and `channels` are what was
    typed, or None; `proposed_image_size` and `proposed_channels` are the data set's; `settle` decides, and from then on
    `settled_image_size`, `settled_channels`, `settled_mean`, `settled_std` and `preprocess` are there.

    Without a trainer it acts as rank 0 of 1. Raises UserError for values that cannot be.
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
        channels: int | None = None,
        seed: int = 0,
        augment: Augment = Augment(),  # noqa: B008 - it is frozen
        cache: Cache = Cache(mode="none"),  # noqa: B008
        on_bad_file: Literal["error", "skip"] = "error",
        loader: Callable[..., Any] = TorchLoader,
        fill_progress: Progress | None = None,
    ) -> None:
        super().__init__()
        _check("data.batch_size", batch_size, 1)
        _check("data.split_seed", split_seed, 0)
        if image_size is not None:
            _check("data.image_size", image_size, 1)
        if channels not in (None, 1, 3):
            raise UserError(f"data.channels={channels}: it can be 1 (grey) or 3 (colour)")
        if on_bad_file not in BAD_FILE_POLICIES:
            raise UserError(f"data.on_bad_file={on_bad_file}: it can be {' or '.join(BAD_FILE_POLICIES)}")
        self.source = source(root=root, split_seed=split_seed)
        self.name = name or self.source.name
        self.classes = self.source.classes
        self.batch_size, self.image_size, self.channels = batch_size, image_size, channels
        self.seed, self.augment, self.loader = seed, augment, loader
        self.cache, self.on_bad_file = cache, on_bad_file
        self.fill_progress = fill_progress
        self.input_resolved = False
        self._stores: dict[str, ImageStore] = {}
        self._loaders: dict[str, Any] = {}
        self._start = 0  # the batch that training begins with

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def proposed_image_size(self) -> int:
        """The image size that suits the data."""
        return self.source.image_size

    @property
    def proposed_channels(self) -> int:
        """1 where the images are grey, else 3."""
        return self.source.channels

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test"; None where there is no such split."""
        return self.source.split(name)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
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
        """Decide what the net is given.

        `mean` and `std`, of pixels 0 to 1, and `eval_resize` are what pretrained weights were trained with; what the
        augmentation was given goes before them, and the data's statistics stand in where there are neither. Statistics
        of three channels are averaged for one, those of one repeated for three.
        """
        self.resolved_image_size, self.resolved_channels = image_size, channels
        self.resolved_mean = _per_channel("mean", self.augment.mean or mean or self.source.mean, channels)
        self.resolved_std = _per_channel("std", self.augment.std or std or self.source.std, channels)
        self.resolved_augment = replace(
            self.augment,
            mean=self.resolved_mean,
            std=self.resolved_std,
            eval_resize=self.augment.eval_resize or eval_resize,
        )
        self.input_resolved = True
        self._close()  # loaders made for another size
        self._stores = {}

    def variant(self, **changes: Any) -> "DataModule":
        """The same data, settled alike, with other attributes: `loader`, `cache` or `source`.

        It has loaders of its own, and shares the filled cache unless that, or what is in it, is another.
        """
        other = copy(self)
        other._loaders = {}
        if {"cache", "source"} & set(changes):
            other._stores = {}
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    @property
    def preprocess(self) -> dict[str, Any]:
        """What inference needs, as plain values: `Preprocess(**values)` does to an image what evaluation does."""
        return {
            "image_size": self.resolved_image_size,
            "eval_resize": self.resolved_augment.effective_eval_resize,
            "channels": self.resolved_channels,
            "mean": list(self.resolved_mean),
            "std": list(self.resolved_std),
        }

    def preprocessor(self) -> Preprocess:
        """`Preprocess` with these values."""
        return Preprocess(**self.preprocess)

    def setup(self, stage: str | None = None) -> None:
        """Settle with what was typed, else proposed, if nobody has decided yet; for fitting, fill the cache.

        What is trained and validated on is cached; what is tested is read once. `trainer.fast_dev_run` caches nothing.
        """
        if not self.input_resolved:
            self.set_input(
                image_size=self.image_size or self.proposed_image_size,
                channels=self.channels or self.proposed_channels,
            )
        quick = bool(self.trainer and getattr(self.trainer, "fast_dev_run", False))
        if stage == "fit" and not self._stores and not quick:
            self._close()
            splits = {name: self.split(name) for name in ("train", "val")}
            wanted = {name: split for name, split in splits.items() if split is not None and split.paths is not None}
            self._stores = fill_once_per_machine(
                self.cache,
                wanted,
                channels=self.resolved_channels,
                on_bad_file=self.on_bad_file,
                trainer=self.trainer,
                progress=self.fill_progress,
            )

    def train_dataloader(self) -> Any:
        """Batches in a new order each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """Every image of val, once."""
        return self._loader("val")

    def test_dataloader(self) -> Any:
        """Every image of test, once; an empty list where there is no test split."""
        return self._loader("test") if self.has_test else []

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Images to normalized float32, channels last in memory, on the device where they are; labels as they are."""
        images, labels = batch
        return normalize(images, self.resolved_mean, self.resolved_std), labels

    def state_dict(self) -> dict[str, Any]:
        """How many batches of its epoch the training has done, and what makes that number mean the same again."""
        done = 0
        if self.trainer is not None:
            batches = self.trainer.num_training_batches
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
            done = int(done % batches) if batches else 0  # an epoch's end is the next one's beginning
        return {"batch": done, **self._facts()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let training go on with the batch after those done. Raises UserError where the data is not the same."""
        for name, now in self._facts().items():
            then = state_dict[name]
            if now == then:
                continue
            if name == "images per step":
                raise UserError(
                    f"data.batch_size={self.batch_size}: {now} images per step on all devices together, the run had "
                    f"{then}, and only with as many it can go on: type data.batch_size={then * self.batch_size // now}"
                )
            raise UserError(f"the data has changed since this run was stopped: {name} were {then}, are {now}")
        self._start = state_dict["batch"]
        if "train" in self._loaders:
            self._loaders["train"].sampler.start_at(self._start)

    def _facts(self) -> dict[str, Any]:
        train = self.split("train")
        assert train is not None
        world_size = self.trainer.world_size if self.trainer else 1
        return {
            "classes": list(self.classes),
            "training images": len(train),
            "images per step": self.batch_size * world_size,
        }

    def teardown(self, stage: str | None = None) -> None:
        """End the loaders' workers, and let go of the cache."""
        self._close()
        self._stores = {}

    def _loader(self, name: str) -> Any:
        """The split's loader: one, so that its workers live on when Lightning asks again."""
        assert name in SPLITS
        if name not in self._loaders:
            self.setup()
            split = self.split(name)
            assert split is not None
            if name in self._stores:
                split = replace(split, store=self._stores[name])
            train, trainer = name == "train", self.trainer
            sampler = EpochSampler(
                len(split),
                self.batch_size,
                seed=self.seed,
                train=train,
                rank=trainer.global_rank if trainer else 0,
                world_size=trainer.world_size if trainer else 1,
                frozen=bool(trainer and getattr(trainer, "overfit_batches", 0)),
            )
            if train:
                sampler.start_at(self._start)
                self._start = 0
            self._loaders[name] = self.loader(
                split,
                sampler,
                augment=self.resolved_augment,
                train=train,
                image_size=self.resolved_image_size,
                channels=self.resolved_channels,
                seed=self.seed,
                on_bad_file=self.on_bad_file,
                device=trainer.strategy.root_device if trainer else None,
            )
        return self._loaders[name]

    def _close(self) -> None:
        for loader in self._loaders.values():
            loader.close()
        self._loaders = {}


def _check(key: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key}={value}: it must be a whole number, at least {least}")


def _per_channel(field: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(float(value) for value in values)
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if channels == 1 and len(values) == 3:
        return (sum(values) / 3,)
    raise UserError(f"augment.{field}={list(values)}: {len(values)} numbers for {channels} channel(s)")
