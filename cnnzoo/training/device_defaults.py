"""The keys whose value `auto` depends on the device: precision, memory format, fused optimizer, logging and others."""

from dataclasses import asdict, dataclass, replace

from omegaconf import DictConfig, open_dict

AUTO = "auto"
FLOAT32 = (None, "32", "32-true")
FUSED_OPTIMIZERS = ("torch.optim.SGD", "torch.optim.Adam", "torch.optim.AdamW")
"""Optimizers with a fused implementation for CUDA."""
LOG_EVERY_N_STEPS = {"cuda": 50}
"""Fewer logged steps on a GPU, which waits at each of them until its values have been read and written."""
OTHERWISE_LOG_EVERY = 10


@dataclass(frozen=True)
class Device:
    """What the defaults depend on.

    type: "cpu", "cuda" or "mps".
    has_bf16: whether it computes in bfloat16 natively; such a CUDA card has TF32 as well.
    """

    type: str
    has_bf16: bool = False


@dataclass(frozen=True)
class DeviceSettings:
    """Values that may be `auto`; None leaves the choice to torch and Lightning.

    precision, benchmark, log_every_n_steps: the trainer's.
    fused: the optimizer's.
    """

    precision: str | int | None = AUTO
    channels_last: bool | str = AUTO
    fused: bool | str | None = AUTO
    benchmark: bool | str | None = AUTO
    tf32: bool | str | None = AUTO
    log_every_n_steps: int | str | None = AUTO


def resolve_settings(
    device: Device, settings: DeviceSettings, *, deterministic: bool = False, can_fuse: bool = True
) -> DeviceSettings:
    """`settings` with each `auto` replaced by what is fastest on `device`.

    deterministic: the run must be reproducible, so cuDNN must not choose its algorithms by measuring them.
    can_fuse: the optimizer has a fused implementation.
    """
    is_cuda = device.type == "cuda"
    precision = settings.precision
    if precision == AUTO:
        precision = "bf16-mixed" if is_cuda and device.has_bf16 else "32-true"
    # A fused step unscales float16 gradients itself, too late for clipping and for their logged norm.
    is_scaled = str(precision) in ("16", "16-mixed")
    is_float32 = (None if precision is None else str(precision)) in FLOAT32
    defaults = DeviceSettings(
        precision=precision,
        channels_last=True,
        fused=True if is_cuda and can_fuse and not is_scaled else None,
        benchmark=True if is_cuda and not deterministic else None,
        tf32=True if is_cuda and device.has_bf16 and is_float32 else None,
        log_every_n_steps=LOG_EVERY_N_STEPS.get(device.type, OTHERWISE_LOG_EVERY),
    )
    used = {name: value for name, value in asdict(defaults).items() if getattr(settings, name) == AUTO}
    return replace(settings, **used)


def find_device(accelerator: str) -> Device:
    """The device that Lightning's trainer uses for `trainer.accelerator`."""
    import torch  # here: nothing above needs it, and it takes seconds

    if accelerator == "cpu":
        return Device("cpu")
    if accelerator != "cuda" and torch.backends.mps.is_available():
        return Device("mps")
    if torch.cuda.is_available():
        return Device("cuda", has_bf16=torch.cuda.is_bf16_supported(including_emulation=False))
    return Device("cpu")


def apply_device_defaults(cfg: DictConfig) -> None:
    """Replace each `auto` in the configuration of a job by what its device uses, and set torch's switches for TF32.

    An optimizer without the key `fused` is left alone. The configuration of an earlier version may lack `tf32`.
    """
    device, trainer, optimizer = find_device(cfg.trainer.accelerator), cfg.trainer, cfg.optimizer
    can_fuse = (
        optimizer._target_ in FUSED_OPTIMIZERS
        and not optimizer.get("foreach")
        and not optimizer.get("differentiable")
        and isinstance(trainer.strategy, str)  # torch has no fused SGD for sharded weights
    )
    settings = resolve_settings(
        device,
        DeviceSettings(
            # A plugin may set the precision; Lightning then accepts only null here.
            precision=None if trainer.precision == AUTO and trainer.plugins is not None else trainer.precision,
            channels_last=cfg.channels_last,
            fused=optimizer.get("fused"),
            benchmark=trainer.benchmark,
            tf32=cfg.get("tf32"),
            log_every_n_steps=trainer.log_every_n_steps,
        ),
        deterministic=bool(trainer.deterministic),
        can_fuse=can_fuse,
    )
    trainer.precision, trainer.benchmark = settings.precision, settings.benchmark
    trainer.log_every_n_steps = settings.log_every_n_steps
    cfg.channels_last = settings.channels_last
    if "tf32" in cfg:
        cfg.tf32 = settings.tf32
    if optimizer._target_ in FUSED_OPTIMIZERS and "fused" in optimizer:
        optimizer.fused = settings.fused
    elif optimizer.get("fused") == AUTO:  # such as optimizer._target_=torch.optim.NAdam, which has no such argument
        with open_dict(optimizer):
            del optimizer["fused"]
    if device.type == "cuda" and settings.tf32 is not None:
        import torch

        torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = bool(settings.tf32)
