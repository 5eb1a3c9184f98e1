"""Google Cloud Storage and Azure for the tests: Azurite, and a server of GCS's XML API of our own."""
