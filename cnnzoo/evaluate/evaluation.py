"""`evaluate`: the predictions of a network for labelled images, and what follows from them; `Ensemble`: of several."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.evaluate.images import select_images
from cnnzoo.evaluate.results import NUM_BINS, Bin, Evaluation, MultilabelEvaluation, Predictions
from cnnzoo.runtime.failures import is_out_of_memory
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.compilation import compile_network
from cnnzoo.training.metrics import ClassCounts, class_averages, topk_correct
from cnnzoo.training.multilabel import ClassScores, predict_classes, score_classes
from cnnzoo.training.multilabel_classifier import MultilabelClassifier


def evaluate(
    net: nn.Module,
    data: DataModule,
    *,
    split: str = "test",
    trainer: pl.Trainer | None = None,
    test_time_flip: bool = False,
    channels_last: bool = True,
    compile_mode: bool | str = False,
) -> Evaluation:
    """Evaluate a network on labelled images, as the test at the end of a training does.

    net: `(N, C, H, W) -> (N, num_classes)` logits. If it has the attributes `preprocess` and `classes`, as the networks
        of `load_run` have, the images are preprocessed accordingly and the classes of the data are matched by name. If
        it has `thresholds`, it is a multi-label network, and the data must be a multi-label set.
    data: where the images come from; it stays unchanged. Its batch size and its loader are used.
    split: "train", "val", "test", or "all" for all of them; nothing is augmented.
    trainer: determines the device and the precision; None: one device, the fastest available one.
    test_time_flip: predict the mean of the logits of each image and its mirror image.
    channels_last: run the network in the channels-last memory format.
    compile_mode: a mode of torch.compile, True for its default one, False for none.

    Returns a `MultilabelEvaluation` for a multi-label network.

    Raises `UserError` for classes or labels that do not match, a split that does not exist, files that cannot be read,
    and if the memory is full.
    """
    data = select_images(data, net, split)
    trainer = trainer or default_trainer()
    if compile_mode:
        compile_network(net, compile_mode, data)
    thresholds: Sequence[float] | None = getattr(net, "thresholds", None)
    settings: dict[str, Any] = {
        "optimizer": partial(torch.optim.SGD, lr=0.0),
        "test_time_flip": test_time_flip,
        "channels_last": channels_last,
        "num_classes": data.num_classes,
    }
    if thresholds is None:
        classifier = Classifier(net, topk=(1, 5) if data.num_classes > 5 else (1,), **settings)
        outputs = _Outputs(lambda logits: logits.argmax(1))
    else:
        classifier = MultilabelClassifier(net, thresholds=thresholds, **settings)
        outputs = _Outputs(lambda logits: predict_classes(logits.float().sigmoid(), thresholds))
    trainer.callbacks.append(outputs)  # type: ignore[attr-defined]
    try:
        trainer.test(classifier, datamodule=data, verbose=False)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        hint = f"type data.batch_size={data.batch_size // 2}" if data.batch_size > 1 else "type trainer=cpu"
        raise UserError(f"out of memory with data.batch_size={data.batch_size}: {hint}") from error
    finally:
        trainer.callbacks.remove(outputs)  # type: ignore[attr-defined]
    metrics = {
        name.removeprefix("test/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }
    images = data.split("test")
    assert images is not None
    predictions = outputs.predictions([images.name(n) for n in range(len(images))] if images.has_files else None)
    results = data.classes, metrics, outputs.seconds, tuple(outputs.skipped)
    if isinstance(classifier, MultilabelClassifier):
        return _multilabel_evaluation(predictions, *results, scores=classifier.scores["test"])
    return _evaluation(predictions, *results)


def default_trainer() -> pl.Trainer:
    """A quiet trainer for one device, which writes nothing."""
    return pl.Trainer(
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class Ensemble:
    """Averages the class probabilities of networks for the same images; they are added one after the other."""

    def __init__(self) -> None:
        self.members: list[dict[str, float]] = []
        """The metrics of the members."""
        self._first: Evaluation | None = None
        self._log_sum = torch.tensor(-torch.inf)  # of the members' probabilities, (N, num_classes)
        self._thresholds: list[list[float]] = []  # of multi-label members
        self._seconds = 0.0

    def add(self, member: Evaluation) -> None:
        """Add a member. Raises `ValueError` for one with other classes or labels than the first."""
        assert member.predictions is not None
        self._first = first = self._first or member
        assert first.predictions is not None
        labels, others = member.predictions.labels, first.predictions.labels
        if member.classes != first.classes or len(labels) != len(others) or not torch.equal(labels, others):
            raise ValueError("the members of an ensemble need the same classes and the same images")
        logits = member.predictions.logits
        if isinstance(member, MultilabelEvaluation):
            self._thresholds.append(member.scores.thresholds)
            log_probabilities = F.logsigmoid(logits)
        else:
            log_probabilities = logits.log_softmax(1)
        self._log_sum = torch.logaddexp(self._log_sum, log_probabilities)
        self._seconds += member.seconds
        self.members.append(member.metrics)

    def mean_metrics(self) -> dict[str, float]:
        """The mean of each metric over the members."""
        return {name: sum(m[name] for m in self.members) / len(self.members) for name in self.members[0]}

    def evaluation(self) -> Evaluation:
        """The evaluation of the averaged probabilities; its `seconds` are those of all members together.

        The thresholds of a multi-label ensemble are the means of the members' thresholds.
        """
        assert self._first is not None
        assert self._first.predictions is not None
        labels, classes = self._first.predictions.labels, self._first.classes
        logits = self._log_sum - torch.tensor(float(len(self.members))).log()
        if self._thresholds:
            probabilities = logits.exp().clamp(max=1)
            thresholds = torch.tensor(self._thresholds).mean(0).tolist()
            scores = score_classes(probabilities, labels, thresholds)
            loss = float(F.binary_cross_entropy(probabilities, labels.float()))
            predicted = predict_classes(probabilities, thresholds)
            predictions = Predictions(probabilities.logit(), predicted, labels, self._first.predictions.paths)
            metrics = {"loss": loss, **scores.averages()}
            results = classes, metrics, self._seconds, self._first.skipped
            return _multilabel_evaluation(predictions, *results, scores=scores)
        predictions = Predictions(logits, logits.argmax(1), labels, self._first.predictions.paths)
        metrics = {"loss": float(F.cross_entropy(logits, labels))}
        for name in (name for name in self._first.metrics if name.startswith("acc")):
            metrics[name] = float(topk_correct(logits, labels, int(name.removeprefix("acc"))).mean())
        counts = ClassCounts(len(classes))
        counts.add(predictions.predicted, labels)
        metrics |= {name: float(value) for name, value in class_averages(counts.counts).items()}
        return _evaluation(predictions, classes, metrics, self._seconds, self._first.skipped)


def _evaluation(
    predictions: Predictions,
    classes: Sequence[str],
    metrics: Mapping[str, float],
    seconds: float,
    skipped: tuple[str, ...],
) -> Evaluation:
    """Add to the metrics what follows from the predictions: calibration and the confusion matrix."""
    num_classes, labels = len(classes), predictions.labels
    error = multiclass_calibration_error(
        predictions.logits.softmax(1), labels, num_classes=num_classes, n_bins=NUM_BINS, norm="l1"
    )
    pairs = torch.bincount(labels * num_classes + predictions.predicted, minlength=num_classes**2)
    return Evaluation(
        classes=tuple(classes),
        metrics={**metrics, "calibration_error": float(error)},
        seconds=seconds,
        confusion=pairs.reshape(num_classes, num_classes).numpy(),
        bins=reliability_bins(predictions),
        skipped=skipped,
        predictions=predictions,
    )


def _multilabel_evaluation(
    predictions: Predictions,
    classes: Sequence[str],
    metrics: Mapping[str, float],
    seconds: float,
    skipped: tuple[str, ...],
    *,
    scores: ClassScores,
) -> MultilabelEvaluation:
    return MultilabelEvaluation(
        classes=tuple(classes),
        metrics=dict(metrics),
        seconds=seconds,
        confusion=np.empty((0, 0), np.int64),
        bins=(),
        skipped=skipped,
        predictions=predictions,
        scores=scores,
        num_images=len(predictions.labels),
    )


def reliability_bins(predictions: Predictions) -> tuple[Bin, ...]:
    """The images by confidence, in `NUM_BINS` bins that include their lower bound, and the last one also 1."""
    confidence = predictions.confidence
    index = torch.bucketize(confidence, torch.linspace(0, 1, NUM_BINS + 1), right=True).sub(1).clamp(max=NUM_BINS - 1)
    correct = (predictions.predicted == predictions.labels).double()
    images = torch.bincount(index, minlength=NUM_BINS)
    sums = (torch.bincount(index, weights, minlength=NUM_BINS) for weights in (confidence.double(), correct))
    means = ((total / images.clamp(min=1)).tolist() for total in sums)
    return tuple(Bin(*values) for values in zip(images.tolist(), *means, strict=True))


class _Outputs(pl.Callback):
    """Keeps the logits, predictions and labels of a test on the CPU, without waiting for the device in each batch.

    predict: the predictions for logits, on their device.
    """

    def __init__(self, predict: Callable[[Tensor], Tensor]) -> None:
        self.predict = predict
        self.logits: list[Tensor] = []
        self.predicted: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.skipped: list[str] = []
        self.seconds = self._start = 0.0

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # The predicted class is computed here as the metrics do: a GPU may choose another one of equal bfloat16 logits.
        kept = ((self.logits, outputs.float()), (self.predicted, self.predict(outputs)), (self.labels, batch[1]))
        for tensors, tensor in kept:
            tensors.append(tensor.to("cpu", non_blocking=tensor.is_cuda))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.seconds = time.perf_counter() - self._start
        self.skipped = sorted(getattr(trainer.test_dataloaders, "skipped_files", ()))

    def predictions(self, paths: Sequence[str] | None) -> Predictions:
        """`paths` are those of all images, in their order."""
        labels, skipped = torch.cat(self.labels), set(self.skipped)
        kept = None if paths is None else tuple(path for path in paths if path not in skipped)[: len(labels)]
        return Predictions(torch.cat(self.logits), torch.cat(self.predicted), labels, kept)
