"""The jobs `export` and `share`: files that run without cnnzoo, compressed files, and a page of a network."""
