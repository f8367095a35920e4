"""The job `describe.py`."""

from omegaconf import DictConfig


def main(cfg: DictConfig) -> None:
    """Print a block, a network, or the whole zoo, whichever the configuration selects."""
    # Imported here because torch takes seconds to load, and a misspelt key is reported without torch.
    from cnnzoo import describe

    if cfg.block is not None:
        describe.show_block(cfg)
    elif "model" in cfg:
        describe.show_network(cfg)
    else:
        describe.show_zoo(cfg)
