"""`share.py`, and files of networks that cannot be loaded."""

from tests.mistakes.case import calls, errors, works

SHARE = "share run=run repo=me/net dry_run=true out=folder"

SHARE_QUICK = {
    "rnu=run": "did you mean run",
    "rep=me/net": "did you mean repo",
    "model=resnet": "unknown key 'model'|model",
    "checkpoint=best": "unknown key 'checkpoint'",
    "dry_run=yes": "dry_run=yes: expected true or false",
    "private=maybe": "private=maybe: expected true or false",
    "licence=mit": "did you mean license",
    "--repo me/net": "repo=me/net|repo",
    "run": "key=value",
}

SHARE_ERRORS = {
    "run=nosuch": "nosuch: there is no such file|nosuch has no checkpoints",
    "run=empty": "empty has no checkpoints",
    "run=unfinished": "has not finished; continue it with .* resume=unfinished",
    "run=notes.txt": r"run=notes\.txt: expected a run directory",
    "run=pickled.pth": r"run=pickled\.pth: expected a run directory",
    "run=run/checkpoints/best.ckpt": "expected a run directory",
    "run=hf://me/net": "expected a run directory",
    "run=latest": "found no finished run in runs/",
    "run=nothing*": r"found no finished run in nothing\*",
    "run=null": "type run=DIR",
    "repo=net": "repo=net: expected USER/NAME",
    "'repo=me/my net'": "repo=me/my net: expected USER/NAME",
    "repo=null": "type repo=USER/NAME",
    "license=MIT": "license=MIT: expected an identifier",
    "out=null": "type out=DIR",
    "out=empty": "out=empty: exists already",
    "out=notes.txt": r"out=notes\.txt: exists already",
    "out=notes.txt/folder": r"out=notes\.txt/folder: .*notes\.txt is not a directory",
    "out=/proc/folder": "/proc/folder",
    "dry_run=false out=null": "token|hf auth login",
}

LOADING = {
    "cnnzoo.load_run('pickled.pth')": "holds more than tensors, which could run code|damaged",
    "cnnzoo.load_run('resnet20.pth')": r"does not say which network it is for; type model=FAMILY .*resnet20\.pth",
    "cnnzoo.load_run('old.ckpt')": r"old\.ckpt was written by another version of cnnzoo: it lacks .*preprocess",
    "cnnzoo.load_run('hf://me')": "expected hf://USER/REPO",
    "cnnzoo.create_model('lenet5', weights='hf://me')": "weights=hf://me: expected hf://USER/REPO",
    "cnnzoo.create_model('resnet18', weights='old.ckpt')": r"old\.ckpt is a checkpoint of lenet5, not of resnet18",
    "cnnzoo.create_model('lenet5', weights='run')": r"type run/checkpoints/best\.ckpt",
}

CASES = [
    *errors(SHARE, SHARE_QUICK, quick=True),
    *errors(SHARE, SHARE_ERRORS),
    *works(SHARE, ["", "license=mit", "out=a/b/folder", "run=run/"]),
    *calls(LOADING),
]
