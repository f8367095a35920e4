"""Write a network to a file that runs without cnnzoo, or to a much smaller one.

Examples:
  python export.py run=latest                                  a program of torch.export: lenet5.pt2
  python export.py run=latest format=onnx preprocess=true      an ONNX model that takes uint8 images
  python export.py run=runs/mnist/lenet5/... format=aoti       compiled by AOTInductor, for the fastest device
  python export.py model=resnet model.name=resnet50 model.weights=DEFAULT format=onnx out=resnet50.onnx
  python export.py run=latest format=compressed                Deep Compression: about a tenth of the size
  python export.py run=latest format=int8                      8-bit integers, for onnxruntime on a CPU

Keys:
  run=DIR                a run directory, latest, or a file of a network
  checkpoint=last        the last checkpoint instead of the best; also for a run that has not finished
  trust_code=true        import the code that the run names: a network or a data set of your own
  format=pt2             pt2 (torch.export), onnx, aoti (AOTInductor), safetensors (weights), compressed or int8
  out=FILE               a new file; by default the network's name with the format's suffix, in this directory
  image_size=64          side of the images that the file takes, or [height,width]; by default that of the network's
                         preprocessing
  preprocess=true        put the normalization into the graph, which then takes uint8 images
  device=cpu             cpu or cuda: what aoti compiles for, and where compressed fine-tunes
  sparsity=0.75          compressed: fraction of the weights that become zero
  bits=5                 compressed: the other weights of a layer have at most 2^bits different values
  epochs=12, lr=0.001    compressed: fine-tuning on the run's training images, with AdamW
  data.root=DIR          compressed and int8: directory of the run's images, if they have moved
  data.batch_size=128    compressed and int8: images per step

Each file takes batches of any size of images (N, C, H, W) that are resized and cropped, and computes logits. Before
success is reported, the file is loaded and compared with the network, for 1 and 7 images. compressed and int8 also
report the accuracy before and after on the run's test images. The classes and the preprocessing are in the file's
metadata "cnnzoo". Files of safetensors and compressed hold weights: cnnzoo.create_model(NAME, weights=FILE) and
run=FILE read them. A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the traceback
behind an error.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from cnnzoo import cli
from cnnzoo.cli.overrides import quote
from cnnzoo.errors import UserError
from cnnzoo.export.settings import check_out, check_settings, default_out, resolve_device
from cnnzoo.runtime.imports import imports_without_gc

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from torch import nn

    from cnnzoo.data.datamodule import DataModule
    from cnnzoo.evaluate.results import Evaluation
    from cnnzoo.export.export import Export
    from cnnzoo.inference.subject import Subject


def main(cfg: DictConfig) -> None:
    """Export the network that the configuration selects, and print how the file compares with it."""
    check_settings(cfg, cli.typed_keys())
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo.export.export import export
        from cnnzoo.inference.subject import load_subject

    device = resolve_device(cfg.device) if cfg.format in ("aoti", "compressed") else "cpu"
    subject = load_subject(cfg, needs_weights=cfg.format == "safetensors")
    out = default_out(subject.name, cfg.format) if cfg.out is None else Path(cfg.out)
    check_out(out, cfg.format)
    if cfg.format == "compressed":
        export_compressed(cfg, subject, out, device)
    elif cfg.format == "int8":
        export_int8(cfg, subject, out)
    else:
        options = {"image_size": cfg.image_size, "preprocess": cfg.preprocess, "device": device}
        show(subject, out, export(subject.net, out, cfg.format, **options))


def export_compressed(cfg: DictConfig, subject: "Subject", out: Path, device: str) -> None:
    """Compress the network while it is fine-tuned on the images of its run, and report what that changes."""
    from cnnzoo.export import compress
    from cnnzoo.export.export import BATCH_SIZES, float32_size, weights_loader, write_and_compare
    from cnnzoo.export.program import example_images

    net, images = subject.net, RunImages(cfg, subject, device)
    before, size_before = images.evaluate(net), float32_size(net)
    compress.compress(
        net,
        images.data,
        partial(images.build_trainer, limit_val_batches=0),
        **{key: cfg[key] for key in ("sparsity", "bits", "epochs", "lr")},
    )
    result = write_and_compare(
        net,
        example_images(net, max(BATCH_SIZES)),
        out,
        write=partial(compress.save_compressed, net),
        load=weights_loader(net),
    )
    after = images.evaluate(weights_loader(net)(out))
    show(subject, out, result, size_before, images.accuracy_text(before, after))


def export_int8(cfg: DictConfig, subject: "Subject", out: Path) -> None:
    """Quantize the network with ranges from the training images of its run, and report what that changes."""
    import torch

    from cnnzoo.export import formats, int8
    from cnnzoo.export.export import BATCH_SIZES, float32_size, write_and_compare
    from cnnzoo.export.program import export_metadata

    net, run_images = subject.net, RunImages(cfg, subject, "cpu")
    before = run_images.evaluate(net)
    batches = list(int8.calibration_batches(run_images.data))
    quantized = int8.quantize(net, batches)
    images = torch.cat(batches)[: max(BATCH_SIZES)].contiguous()
    result = write_and_compare(
        quantized,
        images,
        out,
        write=partial(formats.write_onnx, quantized, images, export_metadata(net, images)),
        load=formats.load_onnx,
        max_difference=int8.MAX_DIFFERENCE,
        timed=net,
    )
    after = run_images.evaluate(formats.FileNetwork(formats.load_onnx(out), net))
    show(subject, out, result, float32_size(net), run_images.accuracy_text(before, after))


class RunImages:
    """The images that a run was trained on, preprocessed for its network, and trainers for one device.

    cfg: the configuration of the job.
    device: "cpu" or "cuda".
    """

    def __init__(self, cfg: DictConfig, subject: "Subject", device: str) -> None:
        from cnnzoo.data.cache.progress import cache_progress
        from cnnzoo.evaluate.images import use_preprocess
        from cnnzoo.evaluate.settings import combined_config
        from cnnzoo.training.device_defaults import apply_device_defaults
        from cnnzoo.training.train import IGNORED_WARNINGS, lower_batch_size, seed_everything

        if subject.run_dir is None:
            raise UserError(f"format={cfg.format}: needs the training images of a run; type run=DIR, not a file")
        for pattern in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", pattern)
        seed_everything(0)
        typed = {f"data.{name}": value for name, value in cfg.data.items() if value is not None}
        overrides = [f"trainer={'gpu' if device == 'cuda' else device}", f"trust_code={cfg.trust_code}"]
        overrides += [quote(key, value) if isinstance(value, str) else f"{key}={value}" for key, value in typed.items()]
        settings = combined_config(subject.run_dir, cli.compose("evaluate", overrides), [*typed, "trainer"])
        apply_device_defaults(settings)
        self.settings = settings
        self.data: DataModule = cli.instantiate(settings.data, "data", fill_progress=cache_progress, start_size=None)
        if "data.batch_size" not in typed:
            lower_batch_size(self.data, settings, world_size=1)
        use_preprocess(self.data, subject.net.preprocess)  # type: ignore[arg-type]
        self.split = "test" if self.data.has_test else "val"

    def build_trainer(self, *, callbacks: list[Any], **arguments: Any) -> "Trainer":
        """A trainer that shows a progress bar and writes nothing; `arguments` are those of Lightning's Trainer."""
        from cnnzoo.callbacks import NanGuard, ProgressBar

        callbacks = [*callbacks, NanGuard(), ProgressBar()]
        trainer: Trainer = cli.instantiate(self.settings.trainer, "trainer", callbacks=callbacks, **arguments)
        return trainer

    def evaluate(self, net: "nn.Module") -> "Evaluation":
        """Evaluate a network on the test split, or on the val split if there is none, as the run's training did."""
        from cnnzoo.evaluate.evaluation import evaluate

        return evaluate(
            net,
            self.data,
            split=self.split,
            trainer=self.build_trainer(callbacks=[]),
            test_time_flip=self.settings.test_time_flip,
            channels_last=self.settings.channels_last,
        )

    def accuracy_text(self, before: "Evaluation", after: "Evaluation") -> str:
        """`0.9361 on 360 test images, 0.9389 before`."""
        name, title = ("map", "mean average precision ") if "map" in after.metrics else ("acc1", "")
        accuracy = f"{title}{after.metrics[name]:.4f} on {before.images:,} {self.split} images"
        return f"{accuracy}, {before.metrics[name]:.4f} before"


def show(subject: "Subject", out: Path, result: "Export", size_before: int | None = None, accuracy: str = "") -> None:
    """Print a table with the file, and how it compares with the network.

    size_before: bytes of the float32 weights, for formats that are smaller.
    """
    from cnnzoo.runtime.formatting import format_bytes
    from cnnzoo.training.run_summary import log_table

    size = format_bytes(result.size)
    if size_before is not None:
        size += f", {size_before / result.size:.1f} times smaller than {format_bytes(size_before)} in float32"
    rows = {"network": f"{subject.name}: {subject.label}", "file": str(out), "size": size, "input": result.images}
    if accuracy:
        rows["accuracy"] = accuracy
    rows["compared"] = f"largest difference {result.difference:.1e} of the largest logit, for 1 and 7 images"
    rows["speed"] = f"{result.file_ms:.3g} ms per image in batches of 7, {result.live_ms:.3g} ms before"
    log_table(rows)


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="export", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
