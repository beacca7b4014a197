"""The models: one file per paper, and the LiDAR carving baseline that needs no weights."""
