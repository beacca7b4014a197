"""Published weights in, safetensors out: one visible key table per model."""
