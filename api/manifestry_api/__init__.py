"""The REST facade: the same resources over HTTP."""
