"""Artifacts, and the care for their bytes: collector, scrubber, abandoned uploads.

Uses `quota` and `runtime`.
"""
