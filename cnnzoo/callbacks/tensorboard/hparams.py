"""A run's row in TensorBoard's table of hyperparameters."""

from collections.abc import Collection, Mapping

from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

FIRST_METRICS = ("test/acc1", "val/acc1", "val/loss", "train/acc1", "perf/images_per_second")
"""Figures whose columns come first: five are shown unless more are asked for."""


def write_hparams(
    writer: SummaryWriter,
    table: Mapping[str, bool | str | float | int],
    figures: Mapping[str, float],
    *,
    first: Collection[str],
    step: int,
) -> None:
    """Write the row, one for each run: `table`, with the columns in `first` ahead of the others, and the figures.

    The figures become scalars of their own, `result/<name>`: TensorBoard takes a metric's last value, and where the
    curve `val/acc1` ends is not the best epoch, whose accuracy the result is.
    """
    order = sorted(figures, key=lambda name: FIRST_METRICS.index(name) if name in FIRST_METRICS else len(FIRST_METRICS))
    result = {f"result/{name}": figures[name] for name in order}
    experiment, *session = hparams(dict(table), result)
    metadata = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(metadata.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in first  # TensorBoard's own rule, what differs comes first, needs it said here
    metadata.content = content.SerializeToString()
    for summary in (experiment, *session):
        writer._get_file_writer().add_summary(summary)
    for name, value in result.items():
        writer.add_scalar(name, value, step)
