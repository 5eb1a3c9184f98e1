"""The store in a bucket, through obstore: S3, Google Cloud Storage, Azure.

Nothing here knows a volume. Uses `store.contract`.
"""
