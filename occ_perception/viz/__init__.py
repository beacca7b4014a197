"""Pictures of grids: a ray-cast voxel renderer, camera overlays, bird's-eye views and composed sheets."""
