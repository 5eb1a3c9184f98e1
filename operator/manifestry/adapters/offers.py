"""What a thread makes for somebody who may have stopped waiting: taken, or unmade; never left unknown."""

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Offer(Generic[T]):
    """Is settled once: by whoever waits, or by the thread, whichever comes last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: T | None = None
        self._is_left = False

    def make(self, value: T) -> bool:
        """Offer what was made; False when nobody waits for it any more, and the thread must unmake it."""
        with self._lock:
            self._value = value
            return not self._is_left

    def leave(self) -> T | None:
        """Wait no longer; return what was made already, which the caller must let unmake."""
        with self._lock:
            self._is_left = True
            return self._value
