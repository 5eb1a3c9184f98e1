"""Jobs over REST: submitting, and following a log.

Uses `objects`, `guard`, `request` and `wire`.
"""
