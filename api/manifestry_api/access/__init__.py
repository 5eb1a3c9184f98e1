"""Who calls: credentials, keys, tenants and grants as the watch caches have them.

What a caller may do is the table in `core.access`. Uses `request`.
"""
