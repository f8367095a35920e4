"""Values of a wrong type or out of range, which the parts of a run check when they are built."""

from tests.mistakes.case import Case, errors, works
from tests.mistakes.places import SHORT

SHORT_ARGS = " ".join(SHORT)


def values(key: str, *bad: str) -> dict[str, str]:
    """Each bad value of `key`; the error names the key."""
    last = key.removeprefix("+").rpartition(".")[2]
    return {f"{key}={value}": rf"\b{last}\b" for value in bad}


RUN = {
    **values("seed", "-1", "abc", "1.5", "null", "5000000000", "true"),
    **values("test", "abc", "no", "null"),
    **values("compile", "maybe", "null", "1", "max"),
    **values("channels_last", "no", "null"),
    **values("tf32", "maybe", "1", "high"),
    **values("ema", "2", "-1", "abc", "true", "0"),
    **values("label_smoothing", "2", "-1", "abc", "null", "1"),
    **values("optimized_metric", "val/acc", "acc1", "test/acc1", "null"),
}

MODEL = {
    **values("model.stem", "big", "null", "7"),
    **values("model.num_classes", "5", "abc", "0", "1000"),
    **values("model.args", "5", "null", "abc"),
    **values("model.recipe", "null"),
    **values("model.recipe.epochs", "abc"),
    **values("model.recipe.sgd.lr", "abc"),
    "+model.args.foo=1": "foo",
    "+model.args.num_classes=3": "num_classes",
    "model=alexnet +model.args.dropout=2": "dropout",
    "model=alexnet +model.args.dropout=abc": "dropout",
    "model.weights=IMAGENET1K_V1": "no published weights",
    "model.weights=true": "weights=true|weights=True",
    "model.weights=nosuch.pth": r"weights=nosuch\.pth: there is no such file",
    "model.weights=garbage.pth": r"garbage\.pth",
    "model.weights=empty.pth": r"empty\.pth",
    "model.weights=pickled.pth": r"pickled\.pth",
    "model.weights=resnet20.pth": r"resnet20\.pth",
    "model.weights=notes.txt": r"notes\.txt",
    "model.weights=empty/": "empty",
    "model.weights=run": "run/checkpoints/best.ckpt|no published weights",
    "model=resnet model.weights=IMAGENET1K_V3": "did you mean IMAGENET1K_V1",
    "model=resnet model.weights=imagenet": "IMAGENET1K_V1",
    "model=resnet model.weights=run/checkpoints/best.ckpt": "lenet5",
    "model=resnet model.weights=DEFAULT": "download|resnet18",
    "model=resnet model.weights=IMAGENET1K_V1 model.stem=small": "stem",
}

DATA = {
    **values("data.batch_size", "0", "-1", "abc", "null", "1.5", "true", "100000"),
    **values("data.image_size", "0", "abc", "64", "1.5", "-32"),
    **values("data.channels", "2", "0", "abc", "4"),
    **values("data.split_seed", "-1", "abc", "null"),
    **values("data.on_bad_file", "ignore", "null"),
    **values("data.cache.mode", "ram", "null", "true"),
    **values("data.cache.budget", "0", "2", "abc", "-1", "null", "80%"),
    **values("data.cache.resize", "0", "abc", "-5"),
    **values("data.source", "null", "abc"),
    **values("data.augment", "null", "abc"),
    **values("data.loader", "null", "abc"),
    **values("data.cache", "null", "none"),
    "data.seed=abc": "seed",
    "+data.foo=1": "foo",
}

LOADER = {
    **values("loader.workers", "-1", "abc", "1.5", "null", "true"),
    **values("loader.kind", "fibers", "null", "process"),
    "loader=dali loader.prefetch=0": "prefetch",
    "loader=dali loader.hw_decoder_load=2": "hw_decoder_load",
    "loader=dali loader.workers=0": "loader.workers",
    "+loader.foo=1": "foo",
    "loader._target_=nosuch.Loader": "nosuch",
}

AUGMENT = {
    **values("augment.flip", "2", "-1", "abc", "null"),
    **values("augment.crop", "circle", "null"),
    **values("augment.padding", "2", "abc"),
    **values("augment.num_ops", "0", "abc"),
    **values("augment.magnitude", "31", "abc"),
    **values("augment.auto_augment", "rand"),
    **values("augment.random_erase", "2", "abc"),
    **values("augment.erase_scale", "[1]", "0.5", "[2,3]"),
    **values("augment.eval_resize", "0.5", "abc"),
    **values("augment.color_jitter", "0.4", "[2,2,2,2]", "abc"),
    **values("augment.mean", "[0.5,0.5]", "abc"),
    **values("augment.std", "0", "[0]", "[-1]"),
    "augment=imagenet augment.scale=[1,0.1]": "scale",
    "augment=imagenet augment.ratio=2": "ratio",
    "+augment.foo=1": "foo",
    "augment._target_=nosuch": "nosuch",
}

OPTIMIZER = {
    **values("optimizer.lr", "abc", "-1", "null", "nan", "inf", "true", "[0.1]"),
    **values("optimizer.weight_decay", "abc", "-1", "null"),
    **values("optimizer.momentum", "-1", "abc"),
    **values("optimizer.nesterov", "abc"),
    **values("optimizer.fused", "abc", "1"),
    "optimizer.fused=true trainer.precision=16-mixed": "optimizer.fused=true: with trainer.precision=16-mixed",
    "optimizer.momentum=0": "momentum",
    "optimizer=adamw optimizer.betas=0.9": "betas",
    "optimizer=adamw optimizer.betas=[2,3]": "[Bb]eta",
    "optimizer=adamw optimizer.betas=[0.9]": "betas",
    "optimizer._target_=torch.optim.Nope": "torch.optim.Nope",
    "optimizer._target_=nope": "nope",
    "optimizer._partial_=false": "optimizer",
    "+optimizer.foo=1": "foo",
    **values("scheduler.warmup_epochs", "-1", "abc", "100"),
    **values("scheduler.min_lr_ratio", "2", "-1", "abc", "null"),
    **{f"scheduler=step {case}": error for case, error in values("scheduler.gamma", "-1", "abc").items()},
    **{
        f"scheduler=step {case}": error for case, error in values("scheduler.milestones", "[2]", "0.5", "[abc]").items()
    },
    "scheduler=one_cycle scheduler.warmup_epochs=abc": "warmup_epochs",
    "scheduler._target_=torch.optim.lr_scheduler.StepLR": "scheduler|step_size",
    "+scheduler.foo=1": "foo",
}

TRAINER = {
    **values("trainer.max_epochs", "0", "abc", "1.5", "-5"),
    **values("trainer.max_steps", "0", "abc"),
    **values("trainer.min_epochs", "abc"),
    **values("trainer.max_time", "abc"),
    **values("trainer.limit_train_batches", "0", "-1", "abc"),
    **values("trainer.limit_val_batches", "-1", "abc"),
    **values("trainer.overfit_batches", "abc"),
    **values("trainer.accumulate_grad_batches", "0", "abc"),
    **values("trainer.gradient_clip_val", "abc"),
    "trainer.gradient_clip_val=1 trainer.gradient_clip_algorithm=foo": "gradient_clip_algorithm|foo",
    **values("trainer.precision", "15", "fp8", "true"),
    "trainer.accelerator=gpu": "trainer.accelerator=cpu|trainer=cpu",
    "trainer.accelerator=abc": "accelerator|abc",
    **values("trainer.devices", "0", "abc", "-2"),
    **values("trainer.benchmark", "abc", "1"),
    "compile=reduce-overhead trainer.accumulate_grad_batches=2": "type compile=default",
    **values("trainer.strategy", "foo"),
    **values("trainer.num_nodes", "0", "abc"),
    "trainer.num_nodes=2": "torchrun|srun|num_nodes",
    **values("trainer.val_check_interval", "0", "1000", "abc"),
    **values("trainer.check_val_every_n_epoch", "0", "abc"),
    **values("trainer.log_every_n_steps", "-1", "abc"),
    **values("trainer.profiler", "foo"),
    "trainer.plugins=foo": "plugin",
    **values("trainer.fast_dev_run", "abc", "-1"),
    **values("trainer.deterministic", "foo"),
    **values("trainer.detect_anomaly", "abc"),
    **values("trainer.sync_batchnorm", "abc"),
    **values("trainer.enable_progress_bar", "abc"),
    "trainer.barebones=true": "barebones",
    "trainer=gpu": "trainer=cpu",
    "+trainer.foo=1": "foo",
    "+trainer.callbacks=x": "callbacks",
    "+trainer.logger=true": "logger",
    "trainer._target_=nosuch.Trainer": "trainer",
}

FINDER = "+callbacks.finder._target_=pytorch_lightning.callbacks"
STOPPING = "+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping +callbacks.stop.monitor"
CALLBACKS = {
    **values("callbacks.checkpoint.every_n_epochs", "0", "abc"),
    **values("callbacks.checkpoint.every_n_seconds", "0", "-1", "abc"),
    **values("callbacks.checkpoint.background", "abc", "null"),
    **values("callbacks.checkpoint.monitor", "foo", "null"),
    **values("callbacks.progress.log_every_seconds", "-1", "abc"),
    **values("callbacks.throughput.window", "0", "abc"),
    **values("callbacks.evaluation.mistakes", "-1", "abc"),
    **values("callbacks.evaluation.max_time_fraction", "2", "-1", "abc"),
    **values("callbacks.first_batch.max_images", "-1", "abc"),
    "callbacks.checkpoint.dirpath=/proc/x": "/proc/x",
    "callbacks.evaluation.directory=/proc/x": "/proc/x",
    "callbacks=full callbacks.histograms.every_n_epochs=0": "every_n_epochs",
    f"{FINDER}.LearningRateFinder": "LearningRateFinder",
    f"{FINDER}.BatchSizeFinder": "BatchSizeFinder",
    f"{STOPPING}=foo": "foo",
    "+callbacks.x._target_=nope.Nope": "nope.Nope",
    "+callbacks.x=1": r"callbacks\.x",
    "+callbacks.checkpoint.foo=1": "foo",
    "callbacks.checkpoint._target_=torch.nn.Linear": "checkpoint",
    "logger.csv.save_dir=/proc/x": "/proc/x",
    "logger.tensorboard.save_dir=/proc/x": "/proc/x",
    "+logger.x._target_=nope": "nope",
    "+logger.x=1": r"logger\.x",
}

EITHER = {
    "optimizer.lr=1e10": "optimizer.lr",
    "trainer=fsdp trainer.accelerator=cpu": "trainer=ddp|trainer=cpu|FSDP|fsdp",
    "optimizer.lr=0": "optimizer.lr",
    "test=0": "test",
    "trainer.limit_val_batches=0": "limit_val_batches",
    "trainer.limit_test_batches=0": "limit_test_batches",
    "trainer.check_val_every_n_epoch=5": "check_val_every_n_epoch",
    "trainer.precision=16": "precision",
    "trainer.enable_checkpointing=false": "enable_checkpointing|callbacks.checkpoint",
    "trainer.log_every_n_steps=0": "log_every_n_steps",
    "callbacks.checkpoint=null": "callbacks.checkpoint",
    "logger.csv=null": "logger.csv",
    "trainer=ddp trainer.accelerator=cpu": "ddp|devices",
    "trainer.max_epochs=null trainer.max_steps=4": "max_epochs",
    "trainer.gradient_clip_val=-1": "gradient_clip_val",
    "hydra.job.chdir=true": "chdir",
}

GROUPS = (RUN, MODEL, DATA, LOADER, AUGMENT, OPTIMIZER, TRAINER, CALLBACKS)
CASES = [
    *(case for group in GROUPS for case in errors(f"train {SHORT_ARGS}", group)),
    *errors(f"train {SHORT_ARGS}", EITHER, accepted=True),
    *works(
        f"train {SHORT_ARGS}",
        [
            "optimized_metric=val/acc5",
            "optimized_metric=val/loss",
            "ema=0.9",
            "label_smoothing=0.1",
            "test=False",
            "optimizer=adamw optimizer.lr=1e-3",
            "data.channels=3",
            "model.weights=run/checkpoints/best.ckpt",
            f"{STOPPING}=val/loss",
        ],
    ),
    Case("train model=lenet trainer.max_epochs=0", r"trainer\.max_epochs=0"),
]
