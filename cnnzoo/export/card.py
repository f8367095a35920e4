"""The model card of a run: a README.md with YAML front matter that the Hugging Face Hub reads.

Card and configuration name no directories, users or hosts of the machine: such values are replaced by `PATH`.
"""

import json
import re
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from torch import nn

from cnnzoo.errors import UserError
from cnnzoo.models import info
from cnnzoo.runtime.environment import read_environment
from cnnzoo.sizes import size_text

PATH = "PATH"
PRIVATE_KEYS = ("data.root", "data.path", "data.cache.persist")
"""Keys that are replaced by `PATH` whatever their value is."""
OMITTED_GROUPS = ("logger", "hydra")
"""Groups that are left out: they may hold accounts and addresses, and do not change what is trained."""
OMITTED_OVERRIDES = ("run_dir", "resume", "sweep")
PUBLIC_VALUE = re.compile(r"hf://.*|\$\{run_dir\}.*|(train|val|test|perf)/\w+")
"""Values with a slash that are no paths."""
METRICS = {
    "acc1": "Top-1 accuracy",
    "acc5": "Top-5 accuracy",
    "map": "Mean average precision",
    "balanced_acc": "Balanced accuracy",
    "f1": "F1 (mean of the classes)",
    "loss": "Loss",
}
DATA_NAMES = {"folder": "imagefolder"}
"""Data sets that have another name on the Hub."""
SPLITS = {"test": "Test", "val": "Validation"}
HUB_METRICS = {"acc1": ("accuracy", "Accuracy"), "map": ("mAP", "Mean average precision"), "f1": ("f1", "F1")}
"""Metric: its type on the Hub, and its name."""
CLASSES_PER_LINE = 100  # characters


def model_card(net: nn.Module, run_dir: Path, repo: str, *, license_id: str | None, picture: str | None) -> str:
    """The text of README.md for the network of a finished run.

    net: has `arguments`, `preprocess` and `classes`, as `load_run` returns it.
    repo: "USER/REPO".
    license_id: an identifier of the Hub, such as "mit"; None leaves it out.
    picture: the file name of the training curves, beside README.md; None for none.
    """
    metrics = _read_metrics(run_dir / "metrics.json")
    config: Any = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    target: str | None = arguments.get("target")
    data = DATA_NAMES.get(config.data.name, str(config.data.name))
    classes: tuple[str, ...] = net.classes  # type: ignore[assignment]
    family = "custom" if target else info(arguments["name"]).family
    front_matter = _front_matter(arguments["name"], family, data, metrics, repo, license_id)
    epochs = f"the best of {metrics['epochs']} epochs" if "best_epoch" in metrics else f"{metrics['epochs']} epochs"
    sections = [
        f"---\n{yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)}---",
        f"# {repo.rpartition('/')[2]}",
        f"{_network_text(arguments)}, trained with cnnzoo on `{data}`. It has {len(classes)} classes and "
        f"{metrics['parameters']:,} parameters.",
        "## How to use it",
        'It needs cnnzoo with the extra `hub`: `pip install "cnnzoo[hub]"`.',
        f"```python\n{load_code(repo, trust_code=target is not None, is_multilabel=hasattr(net, 'thresholds'))}\n```",
        "## Results",
        _results_table(metrics),
        "## Preprocessing",
        _preprocessing_text(net.preprocess),
        "## Classes",
        _class_list(classes),
        "## Training",
        f"This is {epochs}, trained in {metrics['seconds']:,.0f} s. `config.yaml` is the whole configuration.",
        f"```bash\n{training_command(run_dir)}\n```",
    ]
    if picture is not None:
        sections.append(f"![Loss and accuracy by step]({picture})")
    if environment := read_environment(run_dir):
        sections.append(_environment_table(environment))
    return "\n\n".join(sections) + "\n"


def _network_text(arguments: Mapping[str, Any]) -> str:
    if "target" in arguments:
        return f"The network `{arguments['target']}`, whose code is not in this repository and has to be installed"
    facts = info(arguments["name"])
    paper = facts.paper
    arxiv = "" if paper.arxiv is None else f", [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
    return f'The network {facts.name} of "{paper.title}" ({paper.year}{arxiv})'


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        metrics = {}
    if not isinstance(metrics, dict) or not {"parameters", "epochs", "seconds"} <= metrics.keys():
        raise UserError(f"{path} is damaged, or of another version of cnnzoo; train again")
    return metrics


def load_code(repo: str, *, trust_code: bool = False, is_multilabel: bool = False) -> str:
    """A few lines of Python that load the network from the Hub and classify an image."""
    trust = ", trust_code=True" if trust_code else ""
    load = f'import cnnzoo\nnet = cnnzoo.load_run("hf://{repo}"{trust})\n'
    if not is_multilabel:
        return load + 'print(net.classes[net(net.preprocess("image.jpg")[None]).argmax()])'
    return (
        load + 'probabilities = net(net.preprocess("image.jpg")[None])[0].sigmoid().tolist()\n'
        "figures = zip(net.classes, probabilities, net.thresholds)\n"
        "print([name for name, probability, threshold in figures if probability >= threshold])"
    )


def public_config(run_dir: Path) -> str:
    """The configuration of a run as YAML, without `OMITTED_GROUPS`, and with `PATH` for what is private."""
    config = OmegaConf.to_container(OmegaConf.load(run_dir / ".hydra" / "config.yaml"))
    assert isinstance(config, dict)
    kept = {str(key): value for key, value in config.items() if key not in OMITTED_GROUPS}
    return yaml.safe_dump(_public_value("", kept), sort_keys=False, allow_unicode=True)


def training_command(run_dir: Path) -> str:
    """The command of a run, and a comment for each time that it was resumed with changes."""
    overrides: Any = OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")
    lines = [" ".join(["python train.py", *_public_overrides(overrides)])]
    path = run_dir / "resumes.yaml"
    resumes: Any = OmegaConf.load(path) if path.is_file() else ()
    for resume in resumes:
        if changes := _public_overrides(resume.overrides):
            lines.append(f"# resumed after epoch {resume.epoch} with {' '.join(changes)}")
    return "\n".join(lines)


def _public_overrides(overrides: list[str]) -> list[str]:
    """The overrides of a command line, quoted for a shell, without those that only concern the machine."""
    public = []
    for override in map(str, overrides):
        name, _, value = override.partition("=")
        key = name.lstrip("+~")
        if key in OMITTED_OVERRIDES or re.split(r"[./]", key)[0] in OMITTED_GROUPS:
            continue
        unquoted = re.fullmatch(r"'([^'\\]*)'", value)  # cnnzoo quotes paths
        public.append(shlex.quote(f"{name}={_public_value(key, unquoted[1] if unquoted else value)}"))
    return public


def _public_value(key: str, value: Any) -> Any:
    """`value` of a configuration, with `PATH` for each text in it that names a place on the machine."""
    if isinstance(value, Mapping):
        return {name: _public_value(f"{key}.{name}".lstrip("."), item) for name, item in value.items()}
    if isinstance(value, list):
        return [_public_value(key, item) for item in value]
    if not isinstance(value, str):
        return value
    is_path = any(separator in value for separator in "/\\") and not PUBLIC_VALUE.fullmatch(value)
    return PATH if is_path or value.startswith("~") or key in PRIVATE_KEYS else value


def _front_matter(
    name: str, family: str, data: str, metrics: Mapping[str, Any], repo: str, license_id: str | None
) -> dict[str, Any]:
    split = "test" if any(name.startswith("test/") for name in metrics) else "val"
    results = [
        {"type": kind, "name": label, "value": metrics[f"{split}/{metric}"]}
        for metric, (kind, label) in HUB_METRICS.items()
        if f"{split}/{metric}" in metrics
    ]
    front_matter: dict[str, Any] = {} if license_id is None else {"license": license_id}
    front_matter |= {
        "library_name": "cnnzoo",
        "pipeline_tag": "image-classification",
        "tags": list(dict.fromkeys(["image-classification", "pytorch", "cnn", family, name])),
        "metrics": [result["type"] for result in results],
    }
    if results:
        task = {"type": "image-classification", "name": "Image Classification"}
        dataset = {"type": data, "name": data, "split": "validation" if split == "val" else split}
        result = {"task": task, "dataset": dataset, "metrics": results}
        front_matter["model-index"] = [{"name": repo.rpartition("/")[2], "results": [result]}]
    return front_matter


def _results_table(metrics: Mapping[str, Any]) -> str:
    splits = {split: label for split, label in SPLITS.items() if f"{split}/loss" in metrics}
    if not splits:
        return "The run had neither validation nor test images."
    lines = [f"| | {' | '.join(splits.values())} |", f"|---|{'--:|' * len(splits)}"]
    for metric, label in METRICS.items():
        values = [metrics.get(f"{split}/{metric}") for split in splits]
        if any(value is not None for value in values):
            cells = ["" if v is None else f"{v:.4f}" if metric == "loss" else f"{v:.2%}" for v in values]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    if "test" not in splits:
        lines += ["", "The data set has no test split. The best epoch was selected on the validation split."]
    return "\n".join(lines)


def _preprocessing_text(preprocess: Any) -> str:
    color = {1: "grey", 3: "RGB"}.get(preprocess.channels, f"{preprocess.channels} channels")
    color += " with 16 bits" if preprocess.bits == 16 else ""
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (preprocess.mean, preprocess.std))
    return (
        f"`net.preprocess` converts an image to {color}, {_fit_text(preprocess)}, scales the pixels to 0 to 1, "
        f"subtracts the mean ({mean}) and divides by the standard deviation ({std})."
    )


def _fit_text(preprocess: Any) -> str:
    pixels, how = size_text(preprocess.image_size), "(bilinear, antialiased)"
    if preprocess.fit == "squash":
        return f"resizes it to {pixels} {how}"
    if preprocess.fit == "pad":
        return f"resizes it to fit inside {pixels} {how}, fills the rest with black"
    height, width = (round(side * preprocess.eval_resize) for side in preprocess.image_size)
    to = f"its shorter side to {height} pixels" if height == width else f"it to cover {size_text((height, width))}"
    return f"resizes {to} {how}, crops the central {pixels}"


def _class_list(classes: tuple[str, ...]) -> str:
    names = textwrap.fill(", ".join(classes), CLASSES_PER_LINE, break_long_words=False, break_on_hyphens=False)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", names)), 3)
    return f"In the order of the outputs:\n\n{fence}text\n{names}\n{fence}"


def _environment_table(environment: Mapping[str, Any]) -> str:
    rows: dict[str, Any] = {}
    if environment.get("commit"):
        rows["commit"] = environment["commit"] + (", with changes" if environment.get("changed") else "")
    rows["Python"] = environment.get("python")
    rows |= environment.get("packages", {})
    rows |= {"CUDA": environment.get("cuda") if environment.get("gpus") else None}
    rows |= {"GPU": ", ".join(environment.get("gpus", [])), "CPU": environment.get("processor")}
    rows |= {"cores": environment.get("cores")}
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join(["| trained with | |", "|---|---|", *lines]) if lines else ""
