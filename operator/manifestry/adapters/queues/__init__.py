"""Work that waits: keyed, fair over the namespaces, at a bounded pace.

What the work is belongs to `handlers`. Uses `kube`, for backoff and errors.
"""
