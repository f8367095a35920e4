"""`write_report`: one HTML file that compares the evaluated networks. It needs no JavaScript and no other file."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template

import cnnzoo
from cnnzoo.describe.tables import format_count
from cnnzoo.evaluate.charts import NUM_COLORS, line_chart, reliability_chart, scatter_chart
from cnnzoo.evaluate.members import Group, Member
from cnnzoo.evaluate.plots import confusion_picture, png_bytes
from cnnzoo.evaluate.results import NUM_BINS, Evaluation
from cnnzoo.evaluate.tables import group_notes, split_text
from cnnzoo.runtime.files import atomic_write
from cnnzoo.runtime.formatting import format_duration, plural

COMMIT_CHARACTERS = 10
METRICS = {"acc1": "top-1", "acc5": "top-5", "map": "mAP", "loss": "loss", "f1": "F1", "calibration_error": "ECE"}
CURVE_TITLES = {
    "val/acc1": "validation accuracy",
    "val/map": "validation mAP",
    "val/loss": "validation loss",
    "train/loss_epoch": "training loss",
}


def write_report(path: Path, members: Sequence[Member], groups: Sequence[Group]) -> None:
    """Write the report of the networks and their ensembles; an OSError names the file that cannot be written."""
    data = ", ".join(dict.fromkeys(f"{member.data} ({split_text(member.split)})" for member in members))
    devices = ", ".join(dict.fromkeys(f"{member.device}, precision {member.precision}" for member in members))
    title = f"{plural(len(members), 'network')} on {data}"
    date = datetime.now().strftime("%Y-%m-%d %H:%M")
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(title),
        subtitle=escape(f"Evaluated with cnnzoo {cnnzoo.__version__} on {date}, {devices}"),
        body="\n".join(_sections(members, groups)),
    )
    with atomic_write(path) as file:
        file.write(page)


def _sections(members: Sequence[Member], groups: Sequence[Group]) -> list[str]:
    names = {number: f"{number} {member.network}" for number, member in enumerate(members, 1)}
    sections = [_table(members, groups)]
    sections += [f'<p class="dim">{escape(note)}</p>' for note in group_notes(members, groups)]
    sections.append(
        f'<p class="dim">ECE: expected calibration error, {NUM_BINS} bins, L1 norm. images/s: with the loading of the '
        "images. MACs: multiply-accumulates of one image. time: of the training.</p>"
    )
    curves = []
    for metric, title in CURVE_TITLES.items():
        lines = {number: points for number, member in enumerate(members, 1) if (points := member.curves.get(metric))}
        if lines:
            curves.append(line_chart(title, lines, names, "epoch"))
    if curves:
        sections.append(_cards("Training", curves, css_class="grid small"))
    scores = {number: member.evaluation.metrics for number, member in enumerate(members, 1)}
    sizes: dict[str, dict[int, int | None]] = {
        "parameters": {number: member.parameters for number, member in enumerate(members, 1)},
        "multiply-accumulates": {number: member.multiply_accumulates for number, member in enumerate(members, 1)},
    }
    charts: list[str] = []
    for metric, title in {"acc1": "top-1 accuracy", "map": "mean average precision"}.items():
        for name, values in sizes.items():
            marks = {n: (x, scores[n][metric]) for n, x in values.items() if x and metric in scores[n]}
            if len(members) > 1 and marks:
                charts.append(scatter_chart(f"{title} by {name}", marks, names, name))
    if charts:
        sections.append(_cards("Accuracy and size", charts, css_class="grid small"))
    results = {names[number]: member.evaluation for number, member in enumerate(members, 1)}
    results |= {_ensemble_name(group): group.ensemble for group in groups if group.ensemble is not None}
    reliability = [
        reliability_chart(f"{name}: calibration error {result.metrics['calibration_error']:.4f}", result.bins)
        for name, result in results.items()
        if result.bins
    ]
    matrices = [_matrix(name, result) for name, result in results.items() if result.confusion.size]
    if reliability:
        sections.append(_cards("Reliability: accuracy by confidence", reliability, css_class="grid small"))
        title = "Confusion matrices: true classes by row, predicted ones by column"
        sections.append(_cards(title, matrices, css_class="grid"))
    return sections


def _table(members: Sequence[Member], groups: Sequence[Group]) -> str:
    metrics = [name for name in METRICS if any(name in member.evaluation.metrics for member in members)]
    has_runs = any(member.run for member in members)
    run_headers = ["epochs", "time", "commit"] if has_runs else []
    headers = ["images", *(METRICS[name] for name in metrics), "images/s", "parameters", "MACs", *run_headers]
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    rows: list[str] = []
    for group in groups:
        first = "first" if rows else ""
        for index in group.members:
            rows.append(_row(first, _member_cells(index + 1, members[index], metrics, has_runs), members[index].label))
            first = ""
        if group.ensemble is None:
            continue
        blanks = [""] * (len(headers) - 2 - len(metrics))
        count, speed = len(group.members), f"{group.ensemble.images_per_second:,.0f}"
        mean = [f"mean of {count}", "", *_figures(group.mean, metrics), "", *blanks]
        rows.append(_row("mean", [escape(cell) for cell in mean], ""))
        ensemble = [_ensemble_name(group), f"{group.ensemble.images:,}", *_figures(group.ensemble.metrics, metrics)]
        rows.append(_row("ensemble", [escape(cell) for cell in [*ensemble, speed, *blanks]], "averaged probabilities"))
    return (
        f'<div class="scroll"><table><thead><tr><th class="name">network</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(css_class: str, cells: Sequence[str], label: str) -> str:
    """A row of HTML cells; the first is the name, which has the label below it."""
    others = "".join(f"<td>{cell}</td>" for cell in cells[1:])
    name = f'{cells[0]}<div class="path">{escape(label)}</div>'
    return f'<tr class="{css_class}"><td class="name">{name}</td>{others}</tr>'


def _member_cells(number: int, member: Member, metrics: Sequence[str], has_runs: bool) -> list[str]:
    evaluation, run, operations = member.evaluation, member.run, member.multiply_accumulates
    cells = [
        f"{evaluation.images:,}",
        *_figures(evaluation.metrics, metrics),
        f"{evaluation.images_per_second:,.0f}",
        format_count(member.parameters),
        "" if operations is None else format_count(operations),
    ]
    if has_runs:
        seconds = run.get("train_seconds")
        cells += [str(run.get("epochs", "")), "" if seconds is None else format_duration(seconds)]
        cells.append(str(run.get("commit", ""))[:COMMIT_CHARACTERS])
    swatch = f'<span class="swatch" style="background: var(--c{(number - 1) % NUM_COLORS})"></span>'
    return [f"{swatch}{number} {escape(member.network)}", *map(escape, cells)]


def _figures(values: Mapping[str, float], metrics: Sequence[str]) -> list[str]:
    return [f"{values[name]:.4f}" if name in values else "" for name in metrics]


def _ensemble_name(group: Group) -> str:
    numbers = [str(index + 1) for index in group.members]
    return f"ensemble of {', '.join(numbers) if len(numbers) <= 5 else len(numbers)}"


def _cards(title: str, contents: Sequence[str], *, css_class: str) -> str:
    cards = "".join(f'<div class="card">{content}</div>' for content in contents)
    return f'<h2>{escape(title)}</h2><div class="{css_class}">{cards}</div>'


def _matrix(name: str, evaluation: Evaluation) -> str:
    picture = confusion_picture(evaluation.confusion, evaluation.classes)
    encoded = base64.b64encode(png_bytes(picture)).decode()
    height, width = picture.shape[:2]
    return (
        f'<h3>{escape(name)}</h3><div class="picture"><img width="{width}" height="{height}" '
        f'src="data:image/png;base64,{encoded}" alt="confusion matrix of {escape(name)}"></div>'
    )
