"""What the machine gives: files, devices, memory, processes, signals; and what records say of it."""
