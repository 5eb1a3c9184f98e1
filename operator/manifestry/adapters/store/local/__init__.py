"""The store on a local or shared volume, by plain system calls.

Nothing here knows a bucket. Uses `store.contract`.
"""
