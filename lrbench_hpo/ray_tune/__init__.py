"""The search with Ray Tune."""
