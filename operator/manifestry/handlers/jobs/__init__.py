"""Jobs: gather, ask `core.jobs`, write, until nothing is left to do without waiting for the world.

Uses `quota` and `runtime`.
"""
