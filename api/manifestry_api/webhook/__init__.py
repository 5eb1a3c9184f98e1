"""The admission webhook's own door: its certificate, its secret path, its audit records.

The decision is in `core.jobs`, the route in `routes.admission`. Uses no other room.
"""
