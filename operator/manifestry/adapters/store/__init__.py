"""The object store: ports for blobs, records, claims and sessions, and what every kind of store shares.

Volumes are in `store.local`, buckets in `store.remote`; which blobs may go is decided in `core.blobs`.
"""
