"""Networks and other parts of the user: `model=custom`, and `_target_`."""

from tests.mistakes.case import calls, errors, works

SHORT = "train trainer=cpu trainer.max_epochs=1 trainer.limit_train_batches=2 callbacks=minimal logger=none"

QUICK = {
    "model=custom": "model.target has no value; type model.target=",
    "model=custum": "did you mean custom",
    "model=custom model.targt=zz_user.TinyNet": "did you mean model.target",
    "model.target=zz_user.TinyNet": "unknown key 'model.target': type model=custom",
    "model=custom model.target=zz_user.TinyNet model.args.width": "key=value",
    "trust_code=true": "unknown key 'trust_code'",
}

TRAIN = {
    "model.target=": "model.target=: expected MODULE.NAME",
    "model.target=zz_user": "model.target=zz_user: expected MODULE.NAME",
    "model.target=zz_user.py": "the module zz_user .*has no py; it has Fixed, TinyNet",
    "model.target=zz_user.TinyNett": "has no TinyNett; did you mean TinyNet",
    "model.target=zz_usr.TinyNet 'model.name=zz_user'": "no module zz_usr; did you mean zz_user, which is zz_user.py",
    "model.target=nosuch.TinyNet": "no module nosuch; expected nosuch.py in this directory",
    "model.target=zz_user.network": "is a network; expected a function or a class",
    "model.target=zz_user.nn": "expected a function or a class",
    "model.target=builtins.dict": "returns an object of type dict, expected a network",
    "model.target=zz_user.TwoOutputs": r"images \(2, 1, 16, 16\).*a tuple of 2; expected float logits \(2, 10\)",
    "model.target=zz_user.Fixed": "mat1 and mat2 shapes.*type another data.image_size",
    "model.target=zz_user.Fixed data.image_size=8": r"returns float32 \(2, 7\); expected \(2, 10\).*classes_argument",
    "model.target=torchvision.models.resnet18": "expected input.*type data.channels=3",
    "model.target=zz_user.TinyNet model.args.widht=8": "model.args.widht=8: .*did you mean model.args.width",
    "model.target=zz_user.TinyNet model.args.num_classes=3": r"returns float32 \(2, 3\); expected \(2, 10\)",
    "model.target=zz_user.TinyNet model.num_classes=3": "model.num_classes=3: .*has 10 classes",
    "model.target=zz_user.TinyNet model.classes_argument=n": "classes_argument=n: .*expected one of: num_classes",
    "model.target=zz_user.TinyNet model.name=resnet18": "model.name=resnet18: is a network of cnnzoo",
    "model.target=zz_user.TinyNet model.stem=small": "model.stem=small: only cnnzoo's own networks have it",
    "model.target=zz_user.TinyNet gradient_checkpointing=true": "gradient_checkpointing=true: only cnnzoo's own",
    "model.target=zz_user.TinyNet model.weights=DEFAULT": "model.weights=DEFAULT: there is no such file",
    "model.target=zz_user.TinyNet model.weights=resnet20.pth": r"resnet20\.pth.* does not fit: missing: conv.weight",
    "model.target=zz_user.TinyNet model.weights=run/checkpoints/best.ckpt": "is a checkpoint of lenet5, not of zz_user",
    "model.target=zz_user.TinyNet data.image_size=2": "RuntimeError: .*type another data.image_size",
}
TARGETS = {
    "+callbacks.mine._target_=zz_user.Callbak": "callbacks.mine._target_=zz_user.Callbak: .*has no Callbak",
    "+callbacks.mine._target_=zz_usr.Mine 'run_dir=zz_user'": "no module zz_usr",
    "+callbacks.mine._target_=pytorch_lightning.callbacks.Tmer": "has no Tmer; did you mean Timer",
    "+logger.mine._target_=pytorch_lightning.loggers.CSVLoger": "did you mean CSVLogger",
    "optimizer._target_=torch.optim.Adamm": "optimizer._target_=torch.optim.Adamm: .*did you mean Adam",
    "scheduler._target_=cnnzoo.training.lr_schedules.cosin": "did you mean cosine",
    "data.source._target_=cnnzoo.data.Digit": "data.source._target_=cnnzoo.data.Digit: .*did you mean Digits",
}
OTHERS = {
    "predict model=custom model.target=zz_user.TinyNet images=flowers": "would be random; type model.weights=FILE",
    "export model=custom model.target=zz_user.TinyNet format=safetensors": "its weights would be random",
    "describe model=custom model.target=zz_user.Fixed": "type another image_size or channels",
    "describe model=custom model.target=zz_user.TinyNet picture=x.png": "picture=x.png: not used",
    "predict run=run images=flowers trust_code=maybe": "trust_code=maybe: expected true or false",
}
CALLS = {
    "cnnzoo.load_run('run', trust_code='yes')": "trust_code=yes: expected true or false",
    "cnnzoo.load_run('run', network='lenet5')": "network=lenet5: expected a torch.nn.Module",
    "cnnzoo.load_run('run', network=torch.nn.Linear(2, 2))": "weights do not fit the network lenet5",
    "cnnzoo.create_model('custom')": "unknown model 'custom'",
}

CASES = [
    *errors("train", QUICK, quick=True),
    *errors(f"{SHORT} model=custom", TRAIN),
    *errors(f"{SHORT} model=lenet", TARGETS),
    *(case for command, error in OTHERS.items() for case in errors(command, {"": error})),
    *works("describe", ["model=custom model.target=zz_user.TinyNet image_size=16 +model.args.width=8"]),
    *calls(CALLS, setup="import cnnzoo, torch"),
]
