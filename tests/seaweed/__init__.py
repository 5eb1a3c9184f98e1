"""Run a real S3 server for the tests: SeaweedFS, from its package on PyPI."""
