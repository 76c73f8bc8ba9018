"""Early stopping, replayed from measured learning curves."""
