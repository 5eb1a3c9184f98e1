"""HTTP routes, one module per noun: gather, decide, act.

What a route does belongs to its subject's room. Uses every other room but `access`.
"""
