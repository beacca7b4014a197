"""The few hot operations: a plain PyTorch reference, a fast version, and one test that they agree."""
