"""Bytes by their digest: keys, whose a store and a prefix are, what may go, until when a signed URL lasts.

Who refers to bytes, and why, belongs to `artifacts`. Uses `kube`.
"""
