"""Pictures of grids: renderings, camera overlays, 3D views."""
