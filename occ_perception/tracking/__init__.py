"""Identities over time: the objects of each frame to those of the frames before.

settings.py     what a user may change
motion.py       how an object moves, from where its two ends are
track.py        what is remembered of an object
association.py  which object of this frame is which track
parts.py        who keeps the identity where objects merge and split
identities.py   numbers that are not given away again too soon
tracker.py      one frame: associate, update, begin and end tracks, and say what is hidden
objects.py      from what a model says to objects and voxels with stable ids: what a `Session` calls
"""
