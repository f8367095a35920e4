"""The RAM cache: each image file is read once, into memory that all workers and ranks of a machine share."""
