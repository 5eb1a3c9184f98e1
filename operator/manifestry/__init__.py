"""manifestry: artifacts and jobs as custom resources."""
