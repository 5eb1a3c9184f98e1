"""Cancel, suspend, resume: every verb in every state."""

import pytest

from manifestry.core import errors
from manifestry.core.jobs import controls
from manifestry.core.jobs.controls import Control

CONFLICT = "conflict"


@pytest.mark.parametrize(
    ("control", "desired", "status", "expected"),
    [
        (Control.CANCEL, "Active", "queued", "Cancelled"),
        (Control.CANCEL, "Active", "running", "Cancelled"),
        (Control.CANCEL, "Suspended", "suspended", "Cancelled"),
        (Control.CANCEL, "Cancelled", "running", None),
        (Control.CANCEL, "Cancelled", "cancelled", None),
        (Control.CANCEL, "Active", "succeeded", CONFLICT),
        (Control.CANCEL, "Active", "failed", CONFLICT),
        (Control.SUSPEND, "Active", "queued", "Suspended"),
        (Control.SUSPEND, "Active", "running", "Suspended"),
        (Control.SUSPEND, "Suspended", "suspended", None),
        (Control.SUSPEND, "Cancelled", "running", CONFLICT),
        (Control.SUSPEND, "Cancelled", "cancelled", CONFLICT),
        (Control.SUSPEND, "Active", "succeeded", CONFLICT),
        (Control.RESUME, "Suspended", "suspended", "Active"),
        (Control.RESUME, "Active", "running", CONFLICT),
        (Control.RESUME, "Active", "queued", CONFLICT),
        (Control.RESUME, "Cancelled", "running", CONFLICT),
        (Control.RESUME, "Suspended", "failed", CONFLICT),
    ],
)
def test_what_a_verb_writes(control: Control, desired: str, status: str, expected: str | None) -> None:
    if expected == CONFLICT:
        with pytest.raises(errors.Problem, match="must") as caught:
            controls.decide(control, desired, status)
        assert caught.value.kind is errors.CONFLICT
    else:
        assert controls.decide(control, desired, status) == expected


def test_every_verb_has_a_rule() -> None:
    assert set(controls.RULES) == set(Control)
