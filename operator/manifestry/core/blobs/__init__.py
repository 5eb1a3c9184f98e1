"""Bytes by their digest: keys in the store, what may go as garbage, how long a signed URL lasts.

Who refers to bytes, and why, belongs to `artifacts`. Uses `kube`.
"""
