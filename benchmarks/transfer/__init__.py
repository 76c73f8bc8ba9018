"""Trials to a good policy on a task that the prior has not seen."""
