"""Run a real Kubernetes API without nodes for the tests; README.md lists the fixtures."""
