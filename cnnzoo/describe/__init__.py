"""The job `describe.py`: a network layer by layer, two blocks side by side, or the zoo as a table and as a chart."""

from cnnzoo.describe.show import show_block, show_network, show_zoo

__all__ = ["show_block", "show_network", "show_zoo"]
