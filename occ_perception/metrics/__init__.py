"""Benchmark metrics as streaming accumulators of integers."""
