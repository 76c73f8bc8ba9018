"""What was measured, as programs: `python -m benchmarks.NAME`; figures in docs/benchmarks.md."""
