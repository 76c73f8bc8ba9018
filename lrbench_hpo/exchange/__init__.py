"""LR databases and files: results taken out, and results of others taken in."""
