"""Networks trained together: populations of policies, their executors and worker processes."""
