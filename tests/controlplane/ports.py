"""Pick loopback ports for servers that are started, killed and started again on the same port."""

import random
import socket
import threading

# Below the usual ephemeral range: a client socket must not take a server's port while the server is down.
_FIRST, _LAST = 20000, 31999
_ATTEMPT_COUNT = 1000
_handed_out: set[int] = set()
_lock = threading.Lock()


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on and that this process has not handed out before.

    Raises:
        RuntimeError: no free port was found.
    """
    with _lock:
        for _ in range(_ATTEMPT_COUNT):
            port = random.randint(_FIRST, _LAST)
            if port not in _handed_out and _is_free(port):
                _handed_out.add(port)
                return port
    raise RuntimeError(f"no free port between {_FIRST} and {_LAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
