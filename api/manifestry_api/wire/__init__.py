"""Connections: HTTP as uvicorn has it with the bounds that it lacks, bodies and payloads past the parser.

Nothing here knows a route, a caller or a resource. Uses no other room.
"""
