"""Whose a store is, from its record and from what a cluster remembers."""

import json

import pytest

from manifestry.core.blobs import ownership
from manifestry.core.blobs.ownership import Home, Record, State

HOME = Home("mine", ("a", "b"))


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (None, State.ABSENT),
        (b"", State.BLANK),
        (bytes(64), State.BLANK),
        (b'{"version": 1, "clust', State.BLANK),
        (b'{"version": 1, "clusterUid": "', State.BLANK),
        (b'{"version": 1, "clusterUid": "mi', State.UNREADABLE),
        (b"{}", State.UNREADABLE),
        (b"[]", State.UNREADABLE),
        (b'{"clusterUid": 7}', State.UNREADABLE),
        (b'{"clusterUid": ""}', State.UNREADABLE),
        (b"\xff\xfe", State.UNREADABLE),
        (b'{"version": 1, "clusterUid": "mine"}', State.OURS),
        (b'{"clusterUid": "theirs"}', State.FOREIGN),
        (ownership.render(Record("mine", "b")), State.OURS),
        (ownership.render(Record("mine", "a", "operator-1", "2026-05-04T03:02:01Z")), State.OURS),
        (ownership.render(Record("mine", "c")), State.DIVERGED),
        (ownership.render(Record("theirs", "b")), State.FOREIGN),
    ],
)
def test_the_record_and_the_cluster_decide(found: bytes | None, state: State) -> None:
    assert ownership.judge(found, HOME) is state


def test_a_record_comes_back_and_earlier_versions_read_the_cluster_in_it() -> None:
    record = Record("mine", "turn", "leader", "2026-05-04T03:02:01Z")
    assert ownership.parse(ownership.render(record)) == record
    assert json.loads(ownership.render(record))["clusterUid"] == "mine"
    assert ownership.render(Record("mine")) == b'{"version": 1, "clusterUid": "mine"}'


def test_a_cluster_that_knows_no_turn_does_not_take_over_from_one_that_had_some() -> None:
    assert ownership.judge(ownership.render(Record("mine", "a")), Home("mine")) is State.DIVERGED


@pytest.mark.parametrize(
    ("state", "owner", "given", "says"),
    [
        (State.OURS, "mine", "", ""),
        (State.ABSENT, "", "", ""),
        (State.BLANK, "", "", ""),
        (State.FOREIGN, "theirs", "", "--from theirs"),
        (State.FOREIGN, "theirs", "mine", "--from theirs"),
        (State.FOREIGN, "theirs", "theirs", ""),
        (State.DIVERGED, "mine", "", "--from mine"),
        (State.DIVERGED, "mine", "mine", ""),
        (State.UNREADABLE, "", "", "--from unreadable"),
        (State.UNREADABLE, "", "unreadable", ""),
    ],
)
def test_a_store_of_somebody_is_adopted_by_naming_who_it_is(
    state: State, owner: str, given: str, says: str
) -> None:
    problem = ownership.adoption_problem(state, owner, given)
    assert (says in problem) if says else not problem


def test_turns_that_nobody_has_seen_never_push_out_the_one_in_the_record() -> None:
    turns: tuple[str, ...] = ("first",)
    for number in range(100):
        turns = ownership.remember(turns, "first", f"lost-{number}")
        assert "first" in turns
        assert turns[-1] == f"lost-{number}"
        assert len(turns) <= ownership.TURNS_KEPT
    assert ownership.remember((), "", "new") == ("new",)
    assert ownership.remember(("a", "b"), "b", "c") == ("b", "a", "c")


def test_of_two_clusters_with_the_same_past_the_second_one_to_move_on_is_told() -> None:
    here: tuple[str, ...] = ("a", "b")
    there = here
    here = ownership.remember(here, "b", "here")
    found = ownership.render(Record("mine", "here"))
    assert ownership.judge(found, Home("mine", here)) is State.OURS
    assert ownership.judge(found, Home("mine", there)) is State.DIVERGED
