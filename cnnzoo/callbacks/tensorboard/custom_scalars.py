"""Layout of TensorBoard's tab "Custom Scalars": learning, speed and mistakes on one page."""

from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.gpu_stats import GpuStats
from cnnzoo.callbacks.grad_norm import GradientNorm
from cnnzoo.callbacks.tensorboard.evaluation import MAX_MATRIX_CLASSES, Evaluation
from cnnzoo.callbacks.tensorboard.writer import summary_writers
from cnnzoo.callbacks.throughput import Throughput

Charts = dict[str, list[str]]
"""Title of a chart -> regular expressions of the tags that it shows."""


class CustomScalarLayout(Callback):
    """Writes the layout of the charts once, at the start of a run, with only the metrics that this run logs."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:
            return  # a resumed run has written it
        layout = {
            category: {title: ["Multiline", tags] for title, tags in charts.items()}
            for category, charts in custom_scalar_layout(trainer).items()
        }
        for writer in summary_writers(trainer):
            writer.add_custom_scalars(layout)


def custom_scalar_layout(trainer: Trainer) -> dict[str, Charts]:
    """Category -> its charts. TensorBoard matches a pattern from the start of a tag, so each ends with `$`."""
    callback_types = {type(callback) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    is_multilabel = getattr(getattr(trainer, "lightning_module", None), "task", None) == "multilabel"
    scores: Charts = {"accuracy": ["train/acc1$", "train/acc1_epoch$", "val/acc1$"]}
    if is_multilabel:
        scores = {"mean average precision and F1, validation": ["val/map$", "val/f1$"]}
    learning: Charts = scores | {
        "loss": ["train/loss$", "train/loss_epoch$", "val/loss$"],
        "learning rate": ["lr$"],
    }
    if getattr(getattr(trainer, "lightning_module", None), "class_counts", None):
        learning["balanced accuracy and F1, validation"] = ["val/balanced_acc$", "val/f1$"]
    if GradientNorm in callback_types:
        learning |= {"gradient norm": ["norm/gradient$"], "weight norm": ["norm/weight$"]}
    layout = {"Is it learning?": learning}
    speed: Charts = {}
    if Throughput in callback_types:
        speed["images per second"] = ["perf/images_per_second$"]
        speed["fraction of the time spent waiting for data"] = ["perf/data_wait$"]
    gpu_stats = next((callback for callback in trainer.callbacks if isinstance(callback, GpuStats)), None)  # type: ignore[attr-defined]
    if gpu_stats is not None and gpu_stats.has_gpu(trainer):
        if gpu_stats.can_read_utilization:
            speed["GPU utilization"] = ["perf/gpu_use$"]
        speed["peak GPU memory, GiB"] = ["perf/gpu_allocated$", "perf/gpu_reserved$"]
    if speed:
        layout["Is it fast, and what limits it?"] = speed
    if Evaluation in callback_types and trainer.datamodule.num_classes <= MAX_MATRIX_CLASSES:  # type: ignore[attr-defined]
        figure = "average precision" if is_multilabel else "accuracy"
        layout["Where is it wrong?"] = {f"{figure} of each class, validation": ["val_class/.*"]}
    return layout
