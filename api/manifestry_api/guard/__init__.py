"""The one way in: what a route may use, the choke point, the middleware around it.

Nothing here knows a subject. Uses `access` and `request`.
"""
