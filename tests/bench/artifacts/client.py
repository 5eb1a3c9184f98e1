"""A client that is not the bottleneck: `python client.py` reads a plan from standard input.

Payloads are discarded by the kernel on the way in (MSG_TRUNC, tcp(7)) and come from a file by sendfile on the
way out, so that a GiB costs the client a few hundredths of a second beside what the loopback itself takes.
Threads are enough: every call that takes time releases the interpreter.
"""

import itertools
import json
import os
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

RECEIVE_BYTES = 4 << 20
HEAD_MAX_BYTES = 64 << 10
TIMEOUT_SECONDS = 120.0


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waste = bytearray(RECEIVE_BYTES)

    def exchange(self, head: bytes, body: tuple[bytes, int, int] | None = None) -> tuple[int, int, float]:
        """Send a request and return status, body bytes, and the time of the answer's first byte.

        Args:
            head: the request's head.
            body: the first bytes of the body, and the file and number of bytes that follow.
        """
        self.socket.sendall(head if body is None else head + body[0])
        if body is not None:
            self._send_file(body[1], body[2])
        data = self.socket.recv(HEAD_MAX_BYTES)
        first = time.perf_counter()
        while b"\r\n\r\n" not in data:
            data += self._some()
        top, _, rest = data.partition(b"\r\n\r\n")
        length = _content_length(top)
        self._discard(length - len(rest))
        return int(top[9:12]), length, first

    def _send_file(self, file: int, count: int) -> None:
        offset = 0
        while offset < count:  # the socket has a timeout and is therefore not blocking
            try:
                offset += os.sendfile(self.socket.fileno(), file, offset, count - offset)
            except BlockingIOError:
                _wait_writable(self.socket)

    def _some(self) -> bytes:
        data = self.socket.recv(HEAD_MAX_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def _discard(self, count: int) -> None:
        while count > 0:
            got = self.socket.recv_into(self._waste, min(count, RECEIVE_BYTES), socket.MSG_TRUNC)
            if got == 0:
                raise ConnectionError("the server closed the connection")
            count -= got


def _wait_writable(connection: socket.socket) -> None:
    if not select.select([], [connection], [], TIMEOUT_SECONDS)[1]:
        raise TimeoutError("the server takes nothing")


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, text = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(text)
    return 0


class Load:
    """What one process of clients does.

    Args:
        plan: `host`, `port`, `connections`, and either `head` and `seconds` (GET the same again and again),
            or `uploads` of `head` and `prefix`, and the `file` and `count` of bytes that follow.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._uploads = iter(plan.get("uploads", ()))
        self.seconds: list[float] = []
        self.first_seconds: list[float] = []
        self.moved_bytes = 0
        self.errors: list[str] = []
        self.started, self.ended = 0.0, 0.0

    def run(self) -> None:
        """Run all connections to the end."""
        barrier = threading.Barrier(self._plan["connections"] + 1)
        threads = [
            threading.Thread(target=self._work, args=(barrier,)) for _ in range(self._plan["connections"])
        ]
        for thread in threads:
            thread.start()
        barrier.wait()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()  # all processes begin at once
        self.started = time.perf_counter()
        barrier.wait()
        for thread in threads:
            thread.join()
        self.ended = time.perf_counter()

    def _work(self, barrier: threading.Barrier) -> None:
        connection = Connection(self._plan["host"], self._plan["port"])
        barrier.wait()
        barrier.wait()
        try:
            for head, body, count in self._requests():
                began = time.perf_counter()
                status, length, first = connection.exchange(head, body)
                self._note(status, count or length, began, first)
        except (OSError, ValueError) as error:
            with self._lock:
                self.errors.append(repr(error))

    def _note(self, status: int, count: int, began: float, first: float) -> None:
        now = time.perf_counter()
        with self._lock:
            if not 200 <= status < 300:
                self.errors.append(f"status {status}")
                return
            self.seconds.append(now - began)
            self.first_seconds.append(first - began)
            self.moved_bytes += count

    def _requests(self) -> Iterator[tuple[bytes, tuple[bytes, int, int] | None, int]]:
        if "seconds" in self._plan:
            head = self._plan["head"].encode()
            while time.perf_counter() < self.started + self._plan["seconds"]:
                yield head, None, 0
            return
        file, count = os.open(self._plan["file"], os.O_RDONLY), self._plan["count"]
        while (upload := self._next()) is not None:
            prefix = bytes.fromhex(upload["prefix"])
            yield upload["head"].encode(), (prefix, file, count), len(prefix) + count
        os.close(file)

    def _next(self) -> dict[str, str] | None:
        with self._lock:
            return next(itertools.islice(self._uploads, 1), None)


def main() -> None:
    """Read the plan, run it, and print what came of it."""
    load = Load(json.loads(sys.stdin.readline()))
    load.run()
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "seconds": load.seconds,
        "firstSeconds": load.first_seconds,
        "bytes": load.moved_bytes,
        "errors": load.errors,
        "elapsed": load.ended - load.started,
        "cpuSeconds": used.ru_utime + used.ru_stime,
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
