"""Network building blocks, one idea per file; models are composed from them."""
