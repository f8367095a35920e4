"""Measure how good trained networks and ensembles are: accuracy, calibration, plots and a report.

Examples:
  python evaluate.py run=latest                                 the newest run in runs/, on its own test images
  python evaluate.py run=runs/digits/resnet18/... split=val     a run's best checkpoint on its validation images
  python evaluate.py 'run=runs/**'                              all finished runs, and their ensemble
  python evaluate.py 'run=runs/**' report=true                  the same as a web page in one file
  python evaluate.py run=latest data=folder data.root=~/more    other images, one folder per class
  python evaluate.py model=resnet model.name=resnet50 model.weights=DEFAULT data=imagenet data.root=DIR
                                                                a pretrained network on ImageNet

Keys:
  run=DIR                a run directory, latest, a pattern for several runs, or a file of a network
  checkpoint=last        the last checkpoint instead of the best; also for a run that has not finished
  trust_code=true        import the code that the run names: a network or a data set of your own
  split=val              train, val, test or all; by default test, or val if there is no test split. Of other images in
                         a folder without train/, val/ and test/ all are used
  out=DIR                new directory for the results; by default evaluations/<date and time>; null: none
  report=true            also write report.html, which compares the networks
  data=NAME              evaluate on other images, whose classes have the same names
  data.root=DIR          directory of the images, also if those of the run have moved (data=csv, data=hf: data.path)
  data.batch_size=128    images per step
  data.on_bad_file=skip  leave out files that cannot be read
  loader.workers=4       processes or threads that read and decode images
  trainer=cpu            the device: cpu or gpu; by default the fastest one
  trainer.precision=32   numeric precision
  test_time_flip=true    predict the mean of each image and its mirror image
  compile=default        compile the network

What you do not type is as in the training of the run, so that the figures are those at its end. The images are always
processed as the network was trained. The directory of the results has evaluation.json, per_class.csv, confusion.csv,
predictions.csv, confusion.png and reliability.png (which needs matplotlib); with several networks, a folder for each.
A multi-label network has no confusion matrix and no reliability.
A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cnnzoo import cli
from cnnzoo.checks import check_int
from cnnzoo.errors import UserError
from cnnzoo.evaluate.settings import check_settings, combined_config, create_out
from cnnzoo.runtime.imports import imports_without_gc
from cnnzoo.training.check_config import check_accelerator

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from cnnzoo.data.datamodule import DataModule
    from cnnzoo.evaluate.members import Group, Member
    from cnnzoo.inference.subject import Subject

log = logging.getLogger(__name__)


@dataclass
class Plan:
    """One network to evaluate.

    subject: None while other networks are evaluated, because not all may fit into the memory together.
    images: identifies the classes and the images; equal for networks that can form an ensemble.
    """

    path: Path | None
    subject: "Subject | None"
    settings: DictConfig
    data: "DataModule"
    split: str
    images: str


def main(cfg: DictConfig) -> None:
    """Evaluate what the configuration selects, print the results and write them to `cfg.out`."""
    typed = cli.typed_keys()
    check_settings(cfg, typed)
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo.training.train import IGNORED_WARNINGS

    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    check_accelerator(cfg.trainer)
    with output_directory(None if cfg.out is None else Path(cfg.out)) as out:
        plans = plan_evaluations(cfg, typed)
        members, groups = evaluate_all(plans, cfg, out)
        show_results(members, groups, out, report=cfg.report)


@contextmanager
def output_directory(out: Path | None) -> Iterator[Path | None]:
    """Create the directory for the results; remove it if the block raises before a file is written to it."""
    created = [] if out is None else create_out(out)
    try:
        yield out
    except BaseException:
        with suppress(OSError):  # it has files already
            for directory in created:
                directory.rmdir()
        raise


def plan_evaluations(cfg: DictConfig, typed: Collection[str]) -> list[Plan]:
    """Load and check everything that is to be evaluated, so that a mistake ends the job before it computes.

    Several networks are loaded one after the other, and again when they are evaluated. Those for the same images are
    next to each other in the result. A run that cannot be evaluated is left out with a warning if others can.
    """
    from cnnzoo.inference.subject import find_runs, load_run_subject, load_subject

    data_sets: dict[str, DataModule] = {}
    if "data" in typed:
        build_data(combined_config(None, cfg, typed), data_sets)  # now, because the weights may have to be downloaded
    paths = [] if cfg.run is None or cfg.get("model") is not None else find_runs(str(cfg.run), cfg.checkpoint)
    if len(paths) < 2:
        return [plan_evaluation(load_subject(cfg), cfg, typed, data_sets)]
    plans: list[Plan] = []
    errors: dict[Path, UserError] = {}
    for path in paths:
        try:
            subject = load_run_subject(path, cfg.checkpoint, trust_code=cfg.trust_code)
            plan = plan_evaluation(subject, cfg, typed, data_sets)
            plans.append(replace(plan, path=path, subject=None))
        except UserError as error:
            errors[path] = error
    if not plans:
        raise next(iter(errors.values()))
    for path, reason in errors.items():
        log.warning("%s is left out: %s", path, reason)
    order = list(dict.fromkeys(plan.images for plan in plans))
    return sorted(plans, key=lambda plan: order.index(plan.images))


def plan_evaluation(
    subject: "Subject", cfg: DictConfig, typed: Collection[str], data_sets: "dict[str, DataModule]"
) -> Plan:
    """Combine the settings of one network, and build its images; `data_sets` has those that are built already."""
    from cnnzoo.evaluate.images import fingerprint, select_images, use_preprocess
    from cnnzoo.training.device_defaults import apply_device_defaults, find_device
    from cnnzoo.training.train import lower_batch_size

    if subject.run_dir is None and "data" not in typed:
        raise UserError(
            f"{subject.label}: no images to evaluate on; type data=folder data.root=DIR or another data set"
        )
    settings = combined_config(subject.run_dir, cfg, typed)
    apply_device_defaults(settings)
    data = build_data(settings, data_sets)
    if subject.run_dir is not None and "data" not in typed and not has_typed_batch_size(subject.run_dir, typed):
        lower_batch_size(data, settings, world_size=1)  # as the training did
    split = choose_split(data, subject.run_dir, cfg, typed)
    use_preprocess(data, subject.net.preprocess)  # type: ignore[arg-type]
    if find_device(settings.trainer.accelerator).type == "cuda" and "data" not in typed:
        data.resolve_cache()  # the loader of the training depended on it
    if split != "test" and data.cache.resize is not None and "data" not in typed:
        log.info(
            "%s: validated with images cached at %d pixels; the files themselves are evaluated, so the figures differ",
            *(subject.label, data.cache.resize),
        )
    selected = select_images(data, subject.net, split)
    images = fingerprint(selected)
    if cfg.trainer.limit_test_batches is not None:
        images += f" in batches of {data.batch_size}"
    return Plan(None, subject, settings, selected, split, images)


def build_data(settings: DictConfig, data_sets: "dict[str, DataModule]") -> "DataModule":
    """Build the data set of `settings`, or take it from `data_sets` if it was built for another network."""
    node = settings.data.copy()
    batch_size = check_int("data.batch_size", node.pop("batch_size"), minimum=1)
    key = OmegaConf.to_yaml(node)
    if key not in data_sets:
        data_sets[key] = cli.instantiate(node, "data")
    return data_sets[key].variant(batch_size=batch_size)


def has_typed_batch_size(run_dir: Path, typed: Collection[str]) -> bool:
    """Whether the batch size was typed for this evaluation or for the training."""
    path = run_dir / ".hydra" / "overrides.yaml"
    overrides: Any = OmegaConf.load(path) if path.is_file() else []
    return "data.batch_size" in typed or any(str(line).startswith("data.batch_size=") for line in overrides)


def choose_split(data: "DataModule", run_dir: Path | None, cfg: DictConfig, typed: Collection[str]) -> str:
    """The split to evaluate. Raises UserError if all images of a data set include those that the run trained on."""
    if cfg.split is None and "data" in typed and not getattr(data.source, "has_splits", True):
        key = "path" if cfg.data.get("path") is not None else "root"
        trained_on = None
        if run_dir is not None:
            with suppress(UserError, OSError):
                from cnnzoo.evaluate.settings import read_run_config

                trained_on = read_run_config(run_dir).data.get(key)
        if trained_on is not None and _same_path(cfg.data[key], trained_on):
            raise UserError(
                f"data.{key}={cfg.data[key]}: the run was trained on these images; leave data= and data.{key}= out for "
                "its test split, or also type split=all"
            )
        return "all"
    if cfg.split in (None, "test") and not data.has_test:
        log.info("%s has no test split: evaluating the val split", data.name)
        return "val"
    return str(cfg.split or "test")


def _same_path(first: Any, second: Any) -> bool:
    return Path(str(first)).expanduser().resolve() == Path(str(second)).expanduser().resolve()


def evaluate_all(plans: list[Plan], cfg: DictConfig, out: Path | None) -> "tuple[list[Member], list[Group]]":
    """Evaluate the networks and their ensembles, and write the files of each.

    Predictions are dropped as soon as they are written and added to the ensemble.
    """
    from cnnzoo.evaluate.evaluation import Ensemble
    from cnnzoo.evaluate.files import write_evaluation, write_summary
    from cnnzoo.evaluate.members import Group
    from cnnzoo.inference.subject import load_run_subject

    by_images: dict[str, list[int]] = {}
    for number, plan in enumerate(plans):
        by_images.setdefault(plan.images, []).append(number)
    members: list[Member] = []
    groups: list[Group] = []
    digits = len(str(len(plans)))
    for indices in by_images.values():
        ensemble = Ensemble()
        for number in indices:
            plan = plans[number]
            if plan.path is not None:
                plan.subject = load_run_subject(plan.path, cfg.checkpoint, trust_code=cfg.trust_code)
            member = evaluate_plan(plan)
            plan.subject = None
            if len(indices) > 1:
                ensemble.add(member.evaluation)
            if out is not None:
                folder = out if len(plans) == 1 else out / f"{number + 1:0{digits}}_{member.network}"
                write_evaluation(folder, member.evaluation, member.network)
            members.append(replace(member, evaluation=replace(member.evaluation, predictions=None)))
        if len(indices) == 1:
            groups.append(Group(indices))
            continue
        result = ensemble.evaluation()
        if out is not None:
            folder = out / f"ensemble_of_{indices[0] + 1}_to_{indices[-1] + 1}"
            write_evaluation(folder, result, f"ensemble of {len(indices)} networks")
        groups.append(Group(indices, replace(result, predictions=None), ensemble.mean_metrics()))
    if out is not None:
        write_summary(out / "evaluation.json", members, groups)
    return members, groups


def evaluate_plan(plan: Plan) -> "Member":
    """Evaluate one network."""
    from cnnzoo.evaluate.evaluation import evaluate
    from cnnzoo.evaluate.members import Member, count_operations, read_curves, run_facts
    from cnnzoo.training.device_defaults import apply_device_defaults
    from cnnzoo.training.run_summary import device_name

    assert plan.subject is not None
    net, run_dir, settings = plan.subject.net, plan.subject.run_dir, plan.settings
    apply_device_defaults(settings)  # again: another network may have changed torch's switches
    operations, parameters = count_operations(net), sum(p.numel() for p in net.parameters() if p.requires_grad)
    trainer = build_trainer(settings)
    evaluation = evaluate(
        net,
        plan.data,
        trainer=trainer,
        test_time_flip=settings.test_time_flip,
        channels_last=settings.channels_last,
        compile_mode=settings.compile,
    )
    return Member(
        label=plan.subject.label,
        network=plan.subject.name,
        parameters=parameters,
        multiply_accumulates=operations,
        data=str(plan.data.name),
        split=plan.split,
        batch_size=plan.data.batch_size,
        precision=str(trainer.precision),
        device=device_name(trainer),
        test_time_flip=settings.test_time_flip,
        run=run_facts(run_dir),
        curves=read_curves(run_dir),
        evaluation=evaluation,
    )


def build_trainer(settings: DictConfig) -> "Trainer":
    """The trainer of one network, which shows a progress bar and writes nothing."""
    from cnnzoo.callbacks import ProgressBar

    trainer: Trainer = cli.instantiate(
        settings.trainer,
        "trainer",
        callbacks=[] if settings.trainer.enable_progress_bar is False else [ProgressBar()],
        inference_mode=settings.trainer.inference_mode and not settings.compile,  # as in the training
    )
    return trainer


def show_results(members: "list[Member]", groups: "list[Group]", out: Path | None, *, report: bool) -> None:
    """Print the results, and write the report."""
    from cnnzoo.describe.tables import make_console
    from cnnzoo.evaluate import tables
    from cnnzoo.evaluate.plots import has_matplotlib
    from cnnzoo.training.run_summary import log_table

    console = make_console()
    if len(members) == 1:
        log_table(tables.result_rows(members[0]))
        tables.print_tables(console, tables.class_table(members[0].evaluation))
    else:
        console.print(tables.members_table(members, groups, console.width))
        for note in tables.group_notes(members, groups):
            log.info("%s", note)
    if out is None:
        return
    if report:
        from cnnzoo.evaluate.report import write_report

        write_report(out / "report.html", members, groups)
    log.info("")
    if not has_matplotlib() and any(member.evaluation.bins for member in members):
        log.info('reliability.png is left out: it needs matplotlib; type pip install "cnnzoo[plot]"')
    log_table(tables.files_row(out, report=report))


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="evaluate", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
