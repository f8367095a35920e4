"""A run's row in TensorBoard's table of hyperparameters."""

from collections.abc import Collection, Mapping

from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

FIRST_METRICS = ("test/acc1", "test/map", "val/acc1", "val/map", "val/loss", "train/acc1", "perf/images_per_second")
"""Metrics whose columns come first: TensorBoard shows five unless more are selected."""


def write_hparams(
    writer: SummaryWriter,
    table: Mapping[str, bool | str | float | int],
    metrics: Mapping[str, float],
    *,
    first: Collection[str],
    step: int,
) -> None:
    """Write the run's row: the hyperparameters of `table`, those named in `first` before the others, and `metrics`.

    Each metric is also written as a scalar of its own, `result/<name>`. TensorBoard shows a metric's last value, and
    the last value of the curve `val/acc1` is not that of the best epoch, which is the run's result.
    """
    names = sorted(metrics, key=lambda name: FIRST_METRICS.index(name) if name in FIRST_METRICS else len(FIRST_METRICS))
    results = {f"result/{name}": metrics[name] for name in names}
    experiment, *session = hparams(dict(table), results)
    metadata = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(metadata.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in first  # TensorBoard puts the hyperparameters first that differ between runs
    metadata.content = content.SerializeToString()
    for summary in (experiment, *session):
        writer._get_file_writer().add_summary(summary)
    for name, value in results.items():
        writer.add_scalar(name, value, step)
