"""How much a tenant may store: limits, charges, grants, and the recount of what is there.

Bytes and their keys belong to `blobs`. Uses `quota`, `artifacts`, `blobs` and `kube`.
"""
