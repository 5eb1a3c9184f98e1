"""The store on a local or shared volume, by plain system calls.

Nothing here knows a bucket. Uses the ports of `store`.
"""
