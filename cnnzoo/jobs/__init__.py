"""The jobs of the command line. Each module has a `main`, which takes the composed configuration."""
