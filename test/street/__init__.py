"""The tests' world: a made-up street with cameras, a LiDAR and exact truth in closed form, in NumPy alone.

The product's own world is the city (occ_perception/data/synthetic); what is tested or measured on the street needs
neither its renderer nor a compiler, and knows every answer exactly.
"""
