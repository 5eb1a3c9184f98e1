"""The Kubernetes API: one client, its transport and errors, watches, leader election.

What is read and written belongs to the callers. Uses no other room.
"""
