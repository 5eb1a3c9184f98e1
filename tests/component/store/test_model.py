"""Run the model of a store against both kinds of store."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.component.store import storemodel, storeplaces
from tests.faults import crashes
from tests.seaweed.server import S3Server

# Seconds, not minutes: a step on S3 is some ten requests, and shrinking would take minutes. With Phase.shrink
# and more examples a night finds more.
COMMON = settings(deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
LOCAL = settings(COMMON, max_examples=40, stateful_step_count=40)
REMOTE = settings(COMMON, max_examples=12, stateful_step_count=25)


def check(make_place: Callable[[], storeplaces.Place], how: settings) -> None:
    fuse = crashes.Fuse()

    class Machine(storemodel.StoreMachine):
        pass

    Machine.make_place = staticmethod(make_place)
    Machine.fuse = fuse
    with crashes.fragile(fuse):
        run_state_machine_as_test(Machine, settings=how)


def test_a_local_store_does_what_the_model_does(tmp_path: Path) -> None:
    check(lambda: storeplaces.local_place(tmp_path), LOCAL)


def test_a_bucket_does_what_the_model_does(s3: S3Server) -> None:
    check(lambda: storeplaces.s3_place(s3), REMOTE)


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # a failing example belongs into the report, not into the checkout
