"""Ledgers in the cluster: compare-and-swap in batches, for Jobs and for storage.

What may change in a ledger is decided in `core.quota`. Uses `kube`, `store` and `telemetry`.
"""
