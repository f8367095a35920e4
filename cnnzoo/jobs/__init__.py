"""The jobs of the command line: each module has one `main`, which takes the composed configuration."""
