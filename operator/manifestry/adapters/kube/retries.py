"""How long to wait before trying again: exponential, with full jitter, always bounded."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SAFE_VERBS = frozenset({"get", "list", "watch", "log", "review"})
MAX_ATTEMPTS = 6  # 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s: outlives a restart of a leader of the API server
MAX_RETRY_AFTER_SECONDS = 10.0


@dataclass(frozen=True)
class Backoff:
    """Delays that double, each drawn from [half, whole] so that callers do not march in step.

    Args:
        base_seconds: the first delay.
        cap_seconds: no delay is longer.
        uniform: a source of randomness; tests pass their own.
    """

    base_seconds: float = 0.1
    cap_seconds: float = 60.0
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after `failures` failures in a row (1 = the first)."""
        exponent = min(max(failures - 1, 0), 32)
        whole = min(self.cap_seconds, self.base_seconds * 2.0**exponent)
        return self.uniform(whole / 2, whole)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return `Retry-After` in seconds, or None when absent, a date, or nonsense."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds <= MAX_RETRY_AFTER_SECONDS else None


def may_retry(verb: str, status: int, asked_to_wait: bool) -> bool:
    """Tell whether sending the same request again is safe and can help.

    A 429 or 503 with Retry-After was not executed, so a write may be sent again. Without Retry-After a 429 is
    a webhook's answer (an exceeded quota) and waiting for it would only hide it from the caller.
    References: client-go rest/request.go checkWait.
    """
    if asked_to_wait and status in {429, 503}:
        return True
    return status >= 500 and verb in SAFE_VERBS
