"""The cache: image files are read once and kept in RAM, shared by all workers and ranks of a machine."""
