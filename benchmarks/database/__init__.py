"""What writing, reading and size of the LR database cost."""
