"""Input and output: Kubernetes, the object store, clocks, telemetry."""
