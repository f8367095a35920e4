"""Callbacks that write to TensorBoard more than curves of scalars."""
