"""Data sets by name, and the batches drawn from them."""
