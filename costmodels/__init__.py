"""Floor 1: seconds and bytes. What an iteration, a transfer, a byte of memory and an hour cost."""
