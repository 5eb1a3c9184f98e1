"""Whose a store is: its owner's record, the guard that asks for it, store and sessions behind that guard.

What follows from a record is decided in `core.blobs.ownership`. Uses the other rooms of `store`, and `kube`.
"""
