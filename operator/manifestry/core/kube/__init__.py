"""What every object of the API shares: names, bodies, conditions, selectors, leases, trace contexts.

Nothing here knows a kind's own rules. Uses no other room.
"""
