"""Artifacts over REST: creating, changing, uploading, downloading.

Uses `objects`, `guard`, `request` and `wire`.
"""
