"""`task=multilabel`: labels of another kind, metrics of the other task, and settings for one label per image."""

from tests.mistakes.case import WORKS, Case, errors
from tests.mistakes.places import SHORT

SHORT_ARGS = " ".join(SHORT)
MULTILABEL = f"train {SHORT_ARGS} data=digits_multilabel task=multilabel"
CSV = "data=csv data.path=rows.csv data.root=flowers data.path_column=file"

QUICK = {
    "task=multi_label": "did you mean multilabel",
    "task=single": "multiclass, multilabel",
    "task=null": "task=multiclass",
    "task=multilabel,multiclass": "-m",
    "task=multilabel,": "task",
    "data=csv data.label_seperator=x": "did you mean data.label_separator",
}

LABELS = {
    "task=multilabel": "task=multilabel: data=digits has one label for each image",
    "data=digits_multilabel": "type task=multilabel",
    "data=digits_multilabel data.root=flowers task=multilabel": "data.root=flowers",
    f"{CSV} task=multilabel": "data=csv has one label for each image",
    f"{CSV} data.label_columns=[label] task=multilabel": r"rows\.csv: row 2: found '\w+' in column label",
    f"{CSV} data.label_columns=label task=multilabel": r"type data\.label_columns=\[label\]",
    f"{CSV} data.label_columns=[] task=multilabel": "expected a list of columns",
    f"{CSV} data.label_columns=[lable] task=multilabel": "label_columns=label",
    f"{CSV} data.label_columns=[label] data.label_separator=x task=multilabel": "data.label_separator=x",
    f"{CSV} data.label_separator=x": "type task=multilabel",
}

SETTINGS = {
    "optimized_metric=val/acc1": r"val/map, val/f1 or val/loss \(val/acc1 is of task=multiclass\)",
    "optimized_metric=val/balanced_acc": "val/map",
    "optimized_metric=map": "val/map",
    "scheduler=plateau scheduler.monitor=train/acc1": "scheduler.monitor=train/acc1",
    "callbacks.early_stopping.monitor=val/acc1": "val/acc1",
    "callbacks.checkpoint.monitor=val/acc1": "val/map",
    "data.balance=true": "class_weights=balanced",
    "class_weights=[1,2]": "3 classes",
    "focal_gamma=2 mixup=0.2": "focal_gamma=2",
}

CASES = [
    *errors(f"train {SHORT_ARGS}", QUICK, quick=True),
    *errors(f"train {SHORT_ARGS}", LABELS),
    Case(f"train {SHORT_ARGS} optimized_metric=val/map", r"\(val/map is of task=multilabel\)"),
    *errors(MULTILABEL, SETTINGS),
    *(
        Case(f"{MULTILABEL} {arguments}", WORKS)
        for arguments in ("focal_gamma=2 class_weights=[1,2,3]", "cutmix=1 mixup=0.2", "optimized_metric=val/loss")
    ),
    Case(f"train {SHORT_ARGS} {CSV} data.label_separator=';' task=multilabel", WORKS),
]
