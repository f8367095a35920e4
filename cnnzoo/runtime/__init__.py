"""What any part may need from the operating system: processes and their signals, the terminal, files."""
