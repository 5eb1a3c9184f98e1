"""Let one system call of a run fail, or come short."""

import errno
from typing import Any, Final

from tests.faults.syscalls import NAMES, SYNCS, WRITES, Call

SHORT: Final = "short"
_NEEDS_ROOM: Final = frozenset({*WRITES, *NAMES, *SYNCS, "ftruncate"}) - {"unlink", "remove", "rmdir"}
FAULTS: Final[dict[str, int]] = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT}


def kinds(call: Call) -> tuple[str, ...]:
    """Return the faults that a call may have; not EINTR: Python itself calls again (PEP 475)."""
    if call.name in WRITES:
        return (*FAULTS, SHORT)
    return tuple(FAULTS) if call.name in _NEEDS_ROOM or (call.name == "open" and call.is_change) else ("EIO",)


class Injection:
    """A hook of `syscalls.watched` that counts calls, and spoils one.

    Args:
        number: of the call; None spoils none.
        fault: what happens to it.
    """

    def __init__(self, number: int | None = None, fault: str = "EIO") -> None:
        self._number, self._fault = number, fault
        self.calls: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, call: Call) -> Any:
        """Make the call, or not."""
        self.calls.append((call.name, kinds(call)))
        if len(self.calls) - 1 != self._number:
            return call.go()
        if self._fault == SHORT and call.name in WRITES:
            fd, data, *rest = call.args
            return call.real(fd, bytes(data)[: max(1, len(data) // 2)], *rest)
        raise OSError(FAULTS.get(self._fault, errno.EIO), self._fault)
