"""What was measured, as programs: `python -m benchmarks.NAME`; docs/benchmarks.md has the figures."""
