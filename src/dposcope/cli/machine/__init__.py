"""What the program, and never the library, asks of the machine: freed memory, threads."""
