"""What a run left behind, for comparing runs: figures of time aside, which no two runs share."""

import csv

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def metrics_rows(run):
    """The rows of metrics.csv, without figures of time."""
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    return [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows]


def tensorboard_events(run):
    """What TensorBoard shows of a run, by tag: steps, with the values of curves."""
    everything = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    events = EventAccumulator(str(run), size_guidance=everything).Reload()
    found = {f"picture {tag}": [each.step for each in events.Images(tag)] for tag in events.Tags()["images"]}
    found |= {f"tensor {tag}": [each.step for each in events.Tensors(tag)] for tag in events.Tags()["tensors"]}
    for tag in events.Tags()["scalars"]:
        if "perf/" not in tag:
            found[tag] = [(each.step, each.value) for each in events.Scalars(tag)]
    for tag in events.Tags()["histograms"]:
        histograms = ((each.step, each.histogram_value.sum) for each in events.Histograms(tag))
        found[f"histogram {tag}"] = list(histograms)
    return found
