"""`data=csv`, `hf`, `webdataset` and `parquet`: files, columns and labels that are missing or damaged."""

from tests.mistakes.case import WORKS, Case, errors
from tests.mistakes.places import SHORT

SHORT_ARGS = " ".join(SHORT)

QUICK = {
    "data=rows.csv": r"type data=csv data.path=rows\.csv",
    "data=wds": "data=webdataset",
    "data=huggingface": "data=hf",
    "data=parqet": "did you mean parquet",
    "data=csv data.path_colum=file": "did you mean data.path_column",
    "data=digits data.path=rows.csv": "unknown key 'data.path'",
}

CSV = {
    "data=csv": r"data\.path=FILE\.csv",
    "data=csv data.path=": r"data\.path=FILE\.csv",
    "data=csv data.path=nosuch.csv": r"nosuch\.csv",
    "data=csv data.path=empty": "data.path=empty",
    "data=csv data.root=rows.csv": r"type|data\.path=rows\.csv",
    "data=csv data.path=rows.csv data.root=flowers": r"type data\.path_column=file",
    "data=csv data.path=rows.csv data.root=flowers data.path_column=file data.label_column=lable": "label_column=label",
    "data=csv data.path=rows.csv data.root=flowers data.path_column=file data.label_column=file": "1 training image",
    "data=csv data.path=rows.csv data.root=nosuch data.path_column=file": "data.root=nosuch",
    "data=csv data.path=rows.csv data.path_column=file": "80 files of 80 missing.*data.root=DIR",
    "data=csv data.path=missing.csv data.root=flowers": r"row 2: red/x\.png.*on_bad_file=skip",
    "data=csv data.path=measures.csv data.root=flowers": r"measures\.csv: row 3: the label is 0\.1",
    "data=csv data.path=split.csv data.root=flowers data.split_column=split": "row 82: unknown split 'vall'.*val",
    "data=csv data.path=notes.txt": r"notes\.txt",
    "data=csv data.path=rows.csv +data.paht=x": "paht",
}

SHARDS = {
    "data=webdataset": "data.root=DIR",
    "data=webdataset data.root=nosuch": "nosuch",
    "data=webdataset data.root=empty": r"no \.tar files",
    "data=webdataset data.root=shards/{a,b}.tar": r"no file.*b\.tar",
    "data=webdataset data.root=cut": r"a\.tar: is cut off",
    "data=webdataset data.root=unlabeled": r"a\.tar: 3: no label",
    "data=webdataset data.root=notes.txt": r"notes\.txt: .*tar file|notes\.txt: is cut off",
    "data=parquet": "data.root=DIR",
    "data=parquet data.root=empty": r"no \.parquet files",
    "data=parquet data.root=numbers": r"a\.parquet: no column has images",
    "data=parquet data.root=notes.txt": r"notes\.txt",
    "data=parquet data.root=tables data.label_column=class": "'image', 'label'; type one of them",
    "data=hf": r"data\.path=NAME",
    "data=hf data.path=./nosuch": "nosuch",
    "data=hf data.root=flowers data.path=x": r"data\.path=flowers",
}

CASES = [
    *errors(f"train {SHORT_ARGS}", QUICK, quick=True),
    *errors(f"train {SHORT_ARGS}", CSV),
    *errors(f"train {SHORT_ARGS}", SHARDS),
    *(
        Case(f"train {SHORT_ARGS} data.batch_size=8 {arguments}", WORKS)
        for arguments in (
            "data=csv data.path=rows.csv data.root=flowers data.path_column=file data.split_column=split",
            "data=csv data.path=missing.csv data.root=flowers data.on_bad_file=skip",
            "data=webdataset data.root=shards",
            "data=parquet data.root=tables/*.parquet",
        )
    ),
]
