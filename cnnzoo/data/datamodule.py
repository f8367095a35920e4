"""The Lightning data module around `ImageData`."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cnnzoo.data.fingerprint import check_fingerprint, fingerprint
from cnnzoo.data.image_data import ImageData
from cnnzoo.data.loaders.gpu_placement import place_on_all_ranks
from cnnzoo.data.loaders.progressive import grow_images
from cnnzoo.data.loaders.transfer import to_device
from cnnzoo.data.ranks import Ranks

STAGE_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
"""The splits that a stage of Lightning's trainer uses."""


class DataModule(ImageData, pl.LightningDataModule):
    """`ImageData` with the hooks of Lightning: its process, device and epochs are those of the trainer.

    Without a trainer it acts as rank 0 of 1.
    """

    name: str

    @property
    def ranks(self) -> Any:
        return self.trainer or Ranks()

    @property
    def device(self) -> torch.device | None:  # type: ignore[override]
        return self.trainer.strategy.root_device if self.trainer else None

    @property
    def frozen(self) -> bool:  # type: ignore[override]
        return bool(self.trainer and getattr(self.trainer, "overfit_batches", 0))

    def setup(self, stage: str | None = None) -> None:
        """Resolve the input and, for stage "fit", fill the cache. With `trainer.fast_dev_run` nothing is cached."""
        self.resolve_input()
        fast_dev_run = bool(self.trainer and getattr(self.trainer, "fast_dev_run", False))
        if stage == "fit" and not fast_dev_run:
            self.fill_cache()
        if self.device is not None and self.device.type == "cuda":
            # Not with the first batch: all ranks call this, but a rank may have no batch of a small split.
            names = [name for name in STAGE_SPLITS.get(stage or "", ()) if self.split(name) is not None]
            place_on_all_ranks([self.get_loader(name) for name in names], self.ranks.world_size)

    def train_dataloader(self) -> Any:
        """The training loader. It is created once, and each iteration is its next epoch; see `Loader`.

        Without a trainer, the first call fills the cache as `setup("fit")` does.
        """
        if self.trainer is None and "train" not in self._loaders and self.cache.mode != "none":
            self.setup("fit")
        return self.get_loader("train")

    def val_dataloader(self) -> Any:
        """The validation loader. It uses the cache if that has been filled, but does not fill it."""
        return self.get_loader("val")

    def test_dataloader(self) -> Any:
        """The test loader, or an empty list if there is no test split."""
        return self.get_loader("test") if self.has_test else []

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Copy the batch unless it is on the device; Lightning's method takes longer to find that out."""
        return to_device(batch, device)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalize the images to float32 (N, C, H, W), channels-last in memory; the labels are unchanged."""
        images, labels = batch
        return self.normalize(images), labels

    def state_dict(self) -> dict[str, Any]:
        """The completed batches of this epoch, and the properties of the data that must not change until resuming."""
        completed = 0
        if self.trainer is not None:
            batches = self.trainer.num_training_batches
            completed = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
            completed = int(completed % batches) if batches else 0  # a completed epoch: the next one starts at 0
        return {"batch": completed, **fingerprint(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the completed batches. Raises UserError if the data or the images per step have changed."""
        check_fingerprint(self, state_dict)
        self.start_at(state_dict["batch"])

    def teardown(self, stage: str | None = None) -> None:
        self.close()

    def build_loader(self, name: str, *, start_batch: int = 0) -> Any:
        loader = super().build_loader(name, start_batch=start_batch)
        if self.start_size is not None and name == "train" and self.trainer is not None and not self.frozen:
            grow_images(loader, start=self.start_size, epochs=self.trainer.max_epochs)
        return loader
