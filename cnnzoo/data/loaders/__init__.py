"""Loaders: batches of images for one split, made by threads, worker processes, DALI or on the GPU."""
