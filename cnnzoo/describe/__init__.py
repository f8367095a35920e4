"""The job `describe.py`: a network layer by layer, a block beside its rival, the zoo as a table and as a picture."""

from cnnzoo.describe.show import show_block, show_network, show_zoo

__all__ = ["show_block", "show_network", "show_zoo"]
