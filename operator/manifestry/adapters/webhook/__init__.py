"""The admission webhook's certificate, secret path and registration, kept fresh.

The webhook itself is served by the facade. Uses `kube`.
"""
