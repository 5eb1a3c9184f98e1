"""The object store: the one that the settings describe, its sessions, its pins, its inventory and quarantine.

What a store promises is in `store.contract`; volumes are in `store.local`, buckets in `store.remote`. Which
blobs may go is decided in `core.blobs`. Uses the first three.
"""
