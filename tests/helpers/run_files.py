"""Contents of a run directory for comparing two runs, without the metrics that measure time."""

import csv

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def metrics_rows(run_dir):
    """The rows of metrics.csv, without `perf/`."""
    rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
    return [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows]


def tensorboard_events(run_dir):
    """Tag -> its steps for images and tensors, its (step, value) for scalars, its (step, sum) for histograms."""
    sizes = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    accumulator = EventAccumulator(str(run_dir), size_guidance=sizes).Reload()
    tags = accumulator.Tags()
    events = {f"image {tag}": [event.step for event in accumulator.Images(tag)] for tag in tags["images"]}
    events |= {f"tensor {tag}": [event.step for event in accumulator.Tensors(tag)] for tag in tags["tensors"]}
    for tag in tags["scalars"]:
        if "perf/" not in tag:
            events[tag] = [(event.step, event.value) for event in accumulator.Scalars(tag)]
    for tag in tags["histograms"]:
        histograms = accumulator.Histograms(tag)
        events[f"histogram {tag}"] = [(event.step, event.histogram_value.sum) for event in histograms]
    return events
