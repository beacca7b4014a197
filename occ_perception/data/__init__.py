"""Readers of datasets and bags, and the synthetic drive: all yield the same `Frame`."""
