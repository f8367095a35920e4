"""Decoding, augmentation and normalization: from a file to a network's input."""
