"""The job `benchmark.py`."""

from omegaconf import DictConfig

from cnnzoo import cli


def main(cfg: DictConfig) -> None:
    """Measure how fast each loading setting is, print the results and the settings to use."""
    # Imported here because torch takes seconds to load, and a misspelt key is reported without torch.
    from cnnzoo import benchmark
    from cnnzoo.callbacks.progress import cache_progress
    from cnnzoo.training import train

    benchmark.check_config(cfg)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data", fill_progress=cache_progress)
    net, input_spec = train.build_network(cfg.model, data)
    optimizer = cli.instantiate(cfg.optimizer, "optimizer")
    classifier = train.build_classifier(net, input_spec, data, optimizer=optimizer, scheduler=None, cfg=cfg)
    benchmark.run_data_benchmark(
        cfg, data, classifier, lambda *callbacks: cli.instantiate(cfg.trainer, "trainer", callbacks=list(callbacks))
    )
