"""What every reconciler is given: the context, caches, keys, the tasks that a process cannot live without.

No kind's own rules. Uses no other room of the handlers.
"""
