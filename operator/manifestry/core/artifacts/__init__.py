"""An Artifact's life: its sources, uploading, its manifest, what is done next, the scrub.

Bytes by digest belong to `blobs`, what storing costs to `quota.storage`. Uses `blobs`, `fetching` and `kube`.
"""
