"""The LR range test: run, read, stored and found again."""
