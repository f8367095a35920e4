"""The job `train.py`."""

from omegaconf import DictConfig

from cnnzoo import cli


def main(cfg: DictConfig) -> float | None:
    """Train as configured. Returns the metric that a sweep optimizes."""
    # Imported here because torch takes seconds to load, and a misspelt key is reported without torch.
    from cnnzoo.callbacks.progress import cache_progress
    from cnnzoo.training import train

    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data", fill_progress=cache_progress)
    net, input_spec = train.build_network(cfg.model, data)
    classifier = train.build_classifier(
        net,
        input_spec,
        data,
        optimizer=cli.instantiate(cfg.optimizer, "optimizer"),
        scheduler=cli.instantiate(cfg.scheduler, "scheduler"),
        cfg=cfg,
    )
    callbacks = [cli.instantiate(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node]
    trainer = cli.instantiate(
        cfg.trainer,
        "trainer",
        callbacks=callbacks + train.ema_callbacks(cfg.ema),
        logger=[cli.instantiate(node, f"logger.{name}") for name, node in cfg.logger.items() if node],
    )
    return train.train(classifier, data, trainer, input_spec, cfg)
