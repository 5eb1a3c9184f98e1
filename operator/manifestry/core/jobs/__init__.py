"""A Job's life: what its spec may say, what is done next, what its status tells, the pod that runs it.

Limits and ledgers belong to `quota`. Uses `quota` and `kube`.
"""
