"""Downloads in a publisher's name: pinned addresses, bounds, and a queue beside the reconciles.

What may be fetched is decided in `core.fetching`. Uses `store` and `telemetry`.
"""
