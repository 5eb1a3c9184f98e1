"""What readiness looks at, and the probes that look in the background.

Uses `objects` for the caches and `guard` for the ports.
"""
