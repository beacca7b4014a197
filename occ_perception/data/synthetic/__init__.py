"""A procedural city drive: seeded, without assets, with exact ground truth for everything the models learn.

scene.py      what a scene is made of (this package's contract): meshes, materials, actors, weather
...           generators, renderer, LiDAR, labels, the drive and its writers, one idea per file
"""
