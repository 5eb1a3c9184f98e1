"""What HTTP asks of any resource: entity tags, ranges, pages, file names in headers.

Nothing here knows what is served. Uses no other room.
"""
