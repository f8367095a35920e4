"""The page of TensorBoard that answers the four questions: the tab "Custom Scalars"."""

from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.gpu_stats import GpuStats
from cnnzoo.callbacks.grad_norm import GradientNorm
from cnnzoo.callbacks.tensorboard.evaluation import MAX_MATRIX_CLASSES, Evaluation
from cnnzoo.callbacks.tensorboard.writer import summary_writers
from cnnzoo.callbacks.throughput import Throughput

Charts = dict[str, list[str]]  # title -> patterns of the tags whose curves it has


class CustomScalarLayout(Callback):
    """Writes the layout of the charts, once: learning, speed and bottleneck, classes, of what this run logs."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, unless the run began earlier."""
        if trainer.global_step:
            return
        layout = {
            title: {name: ["Multiline", tags] for name, tags in charts.items()}
            for title, charts in custom_scalar_layout(trainer).items()
        }
        for writer in summary_writers(trainer):
            writer.add_custom_scalars(layout)


def custom_scalar_layout(trainer: Trainer) -> dict[str, Charts]:
    """The charts under each question. Patterns match from the start of a tag, hence the `$`."""
    here = {type(callback) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    learning: Charts = {
        "accuracy": ["train/acc1$", "train/acc1_epoch$", "val/acc1$"],
        "loss": ["train/loss$", "train/loss_epoch$", "val/loss$"],
        "learning rate": ["lr$"],
    }
    if GradientNorm in here:
        learning |= {"gradient norm": ["norm/gradient$"], "weight norm": ["norm/weight$"]}
    layout = {"Is it learning?": learning}
    speed: Charts = {}
    if Throughput in here:
        speed["images per second"] = ["perf/images_per_second$"]
        speed["share of the time spent waiting for data"] = ["perf/data_wait$"]
    gpu = next((callback for callback in trainer.callbacks if isinstance(callback, GpuStats)), None)  # type: ignore[attr-defined]
    if gpu is not None and gpu.present(trainer):
        if gpu.can_read_utilization:
            speed["GPU use"] = ["perf/gpu_use$"]
        speed["GPU memory, GiB, at its peak"] = ["perf/gpu_allocated$", "perf/gpu_reserved$"]
    if speed:
        layout["Is it fast, and what limits it?"] = speed
    if Evaluation in here and trainer.datamodule.num_classes <= MAX_MATRIX_CLASSES:  # type: ignore[attr-defined]
        layout["Where is it wrong?"] = {"accuracy of each class, validation": ["val_class/.*"]}
    return layout
