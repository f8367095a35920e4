"""Services of the operating system that any other part may use: processes, signals, the terminal, files."""
