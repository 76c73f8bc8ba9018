"""Programs that measure: `python -m benchmarks.NAME`; docs/benchmarks.md has the figures."""
