"""What the job predict does with a network: classifies images, writes the results, and draws pictures."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnzoo.checks import create_directory
from cnnzoo.data.loaders.base import Loader
from cnnzoo.describe.tables import check_csv
from cnnzoo.errors import UserError
from cnnzoo.predict import settings
from cnnzoo.predict.output import (
    Csv,
    Format,
    JsonLines,
    MultilabelCsv,
    MultilabelTable,
    Table,
    bar_stream,
    open_output,
)
from cnnzoo.predict.predictor import Prediction, predict_batches
from cnnzoo.runtime.console import LiveBar, TimeLeftEstimator
from cnnzoo.runtime.failures import is_out_of_memory
from cnnzoo.runtime.formatting import plural

MIN_IMAGES_FOR_SEARCH = 10_000  # with fewer, cuDNN's search for the fastest algorithms takes longer than it saves


def check_outputs(cfg: Any) -> None:
    """Raise UserError if the output file or directory cannot be written, before anything is computed."""
    if not cfg.explain:
        if cfg.out is not None:
            check_csv(Path(cfg.out), "out")
        return
    directory = settings.pictures_dir(cfg)
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    create_directory("out", directory)
    for path in missing:
        path.rmdir()


def predict(cfg: Any, net: nn.Module, paths: Sequence[str], loader: Callable[..., Loader]) -> None:
    """Classify the images, write the results and a line with the speed, and draw the pictures of `explain=true`.

    Raises UserError if none of the images could be read.
    """
    torch.backends.cudnn.benchmark = len(paths) >= MIN_IMAGES_FOR_SEARCH
    batches = predict_batches(
        net,
        paths,
        topk=cfg.topk,
        batch_size=cfg.batch_size,
        device=str(cfg.device),
        precision=str(cfg.precision),
        loader=loader,
    )
    out = None if cfg.out is None or cfg.explain else Path(cfg.out)
    drawn: list[Prediction] = []
    drawable = bad = 0
    start = time.perf_counter()
    with closing(batches), _progress(len(paths)) as (bar, report), open_output(out, bar) as write:
        text = _format(cfg, net, paths, out)
        write(text.header)
        for predictions in _without_memory_errors(batches, cfg.batch_size):
            write(text.rows(predictions))
            good = [prediction for prediction in predictions if prediction.error is None]
            with_class = [prediction for prediction in good if prediction.classes] if cfg.explain else []
            drawn += with_class[: cfg.explain_limit - len(drawn)]
            drawable += len(with_class)
            bad += len(predictions) - len(good)
            report(len(predictions))
    good_count, seconds = len(paths) - bad, time.perf_counter() - start
    if not good_count:
        raise UserError(f"images={cfg.images}: {_none_read(len(paths), predictions[0])}")
    _note(f"{plural(good_count, 'image')} in {seconds:.1f} s ({good_count / seconds:,.1f} images/s)", bad)
    if out is not None:
        _note(f"Wrote {out}")
    if cfg.explain:
        _draw(cfg, net, drawn, drawable)


def _format(cfg: Any, net: nn.Module, paths: Sequence[str], out: Path | None) -> Format:
    classes: Sequence[str] | None = getattr(net, "classes", None)
    name = settings.results_format(cfg)
    if name == "json":
        return JsonLines()
    if hasattr(net, "thresholds"):
        return (
            MultilabelCsv() if name == "csv" else MultilabelTable(paths, None if out is not None else terminal_width())
        )
    if name == "csv":
        return Csv(cfg.topk if classes is None else min(cfg.topk, len(classes)))
    return Table(paths, classes, width=None if out is not None else terminal_width())


def terminal_width() -> int | None:
    """The width of standard output in columns if it is a terminal."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else None


def _draw(cfg: Any, net: nn.Module, drawn: Sequence[Prediction], drawable: int) -> None:
    if not drawn:
        _note("No pictures: no image has a class whose probability is above its threshold")
        return
    from cnnzoo.predict.explain import save_explanations

    directory = settings.pictures_dir(cfg)
    pictures = save_explanations(net, drawn, directory, layer=cfg.layer)
    _note(f"Wrote {plural(len(pictures), 'picture')} to {directory}")
    if len(drawn) < drawable:
        _note(f"Only the first {plural(len(drawn), 'image')} of {drawable:,} are drawn; explain_limit=N draws more")


def _note(text: str, bad: int = 0) -> None:
    """Print a line on stderr, so that stdout has nothing but results."""
    print(text + (f"; {plural(bad, 'file')} could not be read" if bad else ""), file=sys.stderr)


def _none_read(count: int, first: Prediction) -> str:
    if count == 1:
        return f"cannot be read: {first.error}"
    return f"none of the {count:,} files could be read"


def _without_memory_errors(batches: Iterator[list[Prediction]], batch_size: Any) -> Iterator[list[Prediction]]:
    try:
        yield from batches
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"batch_size={batch_size}: out of memory; type a smaller number, such as batch_size=8"
        ) from error


@contextmanager
def _progress(total: int) -> Iterator[tuple[LiveBar | None, Callable[[int], None]]]:
    """A bar for `total` images on a terminal. Yields the bar if it is on stdout, and a function that counts images."""
    stream = bar_stream()
    if stream is None:
        yield None, lambda images: None
        return
    bar, done, start, estimator = LiveBar(stderr=stream == "stderr"), 0, time.perf_counter(), TimeLeftEstimator()

    def report(images: int) -> None:
        nonlocal done
        done += images
        bar.show(
            "classifying",
            done,
            total,
            seconds_left=estimator.estimate(done, total),
            count=f"{done:,}/{total:,}",
            details=f"{done / max(time.perf_counter() - start, 1e-9):,.0f} images/s",
        )

    try:
        yield (bar if stream == "stdout" else None), report
    finally:
        bar.close()
