"""Loaders: batches of one split's images, built by threads, worker processes, DALI or on the GPU."""
