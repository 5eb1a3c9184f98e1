"""The object store: the one that the settings describe, and the collector's inventory of it.

What a store promises is in `store.contract`; volumes are in `store.local`, buckets in `store.remote`. Which
blobs may go is decided in `core.blobs`.
"""
