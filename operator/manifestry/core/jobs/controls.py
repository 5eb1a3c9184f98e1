"""What cancel, suspend and resume may do to a Job: a table, so that REST and its documentation agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from manifestry.core import errors

ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Control(StrEnum):
    """The verbs of `POST /jobs/{id}/<verb>`."""

    CANCEL = "cancel"
    SUSPEND = "suspend"
    RESUME = "resume"


@dataclass(frozen=True)
class Rule:
    """One verb.

    Args:
        desired_state: what it writes to `spec.desiredState`.
        legal_from: the desired states in which it may be written.
        repeatable: asking for what is so already is not an error.
    """

    desired_state: str
    legal_from: frozenset[str]
    repeatable: bool


RULES: Mapping[Control, Rule] = MappingProxyType(
    {
        Control.CANCEL: Rule("Cancelled", frozenset({"Active", "Suspended"}), repeatable=True),
        Control.SUSPEND: Rule("Suspended", frozenset({"Active"}), repeatable=True),
        Control.RESUME: Rule("Active", frozenset({"Suspended"}), repeatable=False),
    }
)


def decide(control: Control, desired_state: str, status: str) -> str | None:
    """Return the `spec.desiredState` to write, or None when it is so already.

    Args:
        control: the verb.
        desired_state: the Job's `spec.desiredState`, `Active` when it is absent.
        status: the Job's REST status word.

    Raises:
        Problem: conflict, the verb is not legal in this state.
    """
    rule = RULES[control]
    if rule.repeatable and desired_state == rule.desired_state:
        return None
    if status in ENDED:
        raise errors.Problem(
            errors.CONFLICT, f"a job must not have ended to {control.value} it, it has {status}"
        )
    if desired_state not in rule.legal_from:
        wanted = " or ".join(sorted(rule.legal_from))
        raise errors.Problem(
            errors.CONFLICT,
            f"`desiredState` must be {wanted} to {control.value} a job, it is {desired_state}",
        )
    return rule.desired_state
