"""From a model or a folder of predictions to a score that can be quoted; every figure comes from `metrics`."""
