"""`export.py`."""

from tests.mistakes.case import errors, works

EXPORT = "export run=run"

QUICK = {
    "rnu=run": "did you mean run",
    "formt=onnx": "did you mean format",
    "run": "key=value",
    "--format onnx": "format=onnx",
    "file=x.pt2": "unknown key 'file'",
    "data.image_size=64": "image_size",
    "trainer=gpu": "trainer",
    "model=resnet50": "model=resnet model.name=resnet50",
    "format=pt2,onnx": "add -m",
}

SETTINGS = {
    "format=onx": "unknown format 'onx': did you mean onnx",
    "format=torchscript": "unknown format 'torchscript': expected one of: pt2, onnx, aoti",
    "format=": "unknown format",
    "checkpoint=newest": "checkpoint=newest: expected best or last",
    "sparsity=0.5": "sparsity: not used with format=pt2, only with format=compressed; leave it out",
    "bits=4 format=int8": "bits: not used with format=int8",
    "image_size=64 format=compressed": "image_size: not used with format=compressed",
    "preprocess=true format=safetensors": "preprocess: not used with format=safetensors",
    "device=cpu format=onnx": "device: not used with format=onnx",
    "data.root=flowers": "data.root: not used with format=pt2",
    "format=compressed sparsity=1": "sparsity=1: expected a number >= 0 and < 1",
    "format=compressed sparsity=-0.1": "sparsity=-0.1: expected a number >= 0",
    "format=compressed sparsity=70%": "sparsity=70%: expected a number",
    "format=compressed bits=0": "bits=0: expected a whole number from 1 to 8",
    "format=compressed bits=9": "bits=9: expected a whole number from 1 to 8",
    "format=compressed epochs=-1": "epochs=-1: expected a whole number >= 0",
    "format=compressed lr=0": "lr=0: expected a number > 0",
    "format=compressed data.batch_size=0": "data.batch_size=0",
    "format=compressed run=null": "format=compressed: needs the training images of a run; type run=DIR",
    "format=int8 run=null model=resnet": "format=int8: needs the training images of a run; type run=DIR",
    "image_size=0": "image_size=0",
    "image_size=big": "image_size=big",
    "preprocess=maybe": "preprocess=maybe: expected true or false",
    "format=aoti device=tpu": "device=tpu: expected auto, cpu or cuda",
    "out=x.txt": r"out=x\.txt: expected a file name that ends with \.pt2",
    "out=x format=onnx": r"out=x: expected a file name that ends with \.onnx",
    "out=x.pth format=compressed": r"ends with \.safetensors",
    "out=nosuch/x.pt2": "the directory nosuch does not exist",
    "out=/proc/x.pt2": "out=/proc/x.pt2: cannot be written",
}

ERRORS = {
    "run=nosuch": "nosuch.*no such file or directory",
    "run=empty": "empty has no checkpoints",
    "run=unfinished": "not finished; type checkpoint=best or checkpoint=last",
    "run=latest": "found no finished run",
    "run=sweep": "sweep/0_lenet5.*choose one",
    "run=notes.txt": r"notes\.txt",
    "run=garbage.pth": r"garbage\.pth",
    "run=pickled.pth": r"pickled\.pth",
    "run=resnet20.pth": r"resnet20\.pth does not say which network it is for",
    "run=null": "run=DIR",
    "run=run model=resnet": "leave the other out",
    "run=null model=lenet format=safetensors": "its weights would be random",
    "run=null model=resnet model.name=vgg11": "model=vgg",
    "run=null model=lenet model.weights=nosuch.pth": r"nosuch\.pth",
    "run=null model=lenet checkpoint=best": "checkpoint=best",
    "image_size=64": "image_size=64: lenet5 takes exactly 32 pixels",
    "format=aoti device=cuda": "device=cuda: .*type device=cpu",
    "out=run": r"out=run: expected a file name that ends with \.pt2",
    "out=resnet20.pth": r"ends with \.pt2",
    "format=compressed run=run/checkpoints/best.ckpt": "needs the training images of a run; type run=DIR, not a file",
    "format=compressed data.root=flowers": "data.root=flowers: data=digits reads no files",
}

CASES = [
    *errors(EXPORT, QUICK, quick=True),
    *errors(EXPORT, SETTINGS),
    *errors(EXPORT, ERRORS),
    *works(EXPORT, ["", "--help", "--cfg job", "preprocess=true", "format=safetensors", "'out=a b.pt2'"]),
]
