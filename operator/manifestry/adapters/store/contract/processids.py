"""A name for this process that a restarted one has again, so that it clears what the one before has left."""

import os
import socket
import uuid


def process_id() -> str:
    """Return a UUID of the host, which in a cluster is the pod, and of the process's number in it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"manifestry://{socket.gethostname()}/{os.getpid()}"))
