"""What every kind of store promises: the ports of blobs, sessions, records and claims, and their errors.

No system call and no request is made here. Uses no other room.
"""
