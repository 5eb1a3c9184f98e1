"""The order of waiting keys."""

from hypothesis import given
from hypothesis import strategies as st

from manifestry.adapters.queues import fairqueues

Keys = st.tuples(st.just("Job"), st.sampled_from(["", "a", "b", "c"]), st.sampled_from("123456"))


def drain(queue: fairqueues.FairQueue) -> list[fairqueues.Waiting]:
    taken = []
    while (waiting := queue.pop()) is not None:
        taken.append(waiting)
    return taken


def test_namespaces_take_turns() -> None:
    queue = fairqueues.FairQueue()
    for key in (("J", "a", "1"), ("J", "a", "2"), ("J", "a", "3"), ("J", "b", "1"), ("J", "b", "2")):
        queue.push(key, 0.0)
    order = ["".join(waiting.key[1:]) for waiting in drain(queue)]
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_a_key_that_becomes_urgent_keeps_its_time() -> None:
    queue = fairqueues.FairQueue()
    queue.push(("J", "a", "1"), 1.0)
    queue.push(("J", "a", "2"), 2.0)
    queue.push(("J", "a", "2"), 3.0, urgent=True)
    queue.push(("J", "b", "9"), 4.0, urgent=True)
    queue.push(("J", "b", "9"), 5.0)
    assert queue.oldest() == 1.0
    assert [(waiting.key[2], waiting.since) for waiting in drain(queue)] == [
        ("2", 2.0),
        ("9", 4.0),
        ("1", 1.0),
    ]


def test_a_namespace_with_its_share_waits_unless_it_is_urgent() -> None:
    queue = fairqueues.FairQueue()
    for key, urgent in ((("J", "a", "1"), False), (("J", "a", "2"), True), (("J", "b", "1"), False)):
        queue.push(key, 0.0, urgent=urgent)
    taken = [queue.pop({"a"}) for _ in range(3)]
    assert ["".join(each.key[1:]) for each in taken if each] == ["a2", "b1"]
    assert len(queue) == 1


def test_an_empty_queue_has_nothing() -> None:
    queue = fairqueues.FairQueue()
    assert (len(queue), queue.pop(), queue.oldest()) == (0, None, None)
    queue.push(("J", "a", "1"), 0.0, urgent=True)
    queue.push(("J", "a", "1"), 1.0, urgent=True)
    assert len(drain(queue)) == 1
    assert ("J", "a", "1") not in queue


@given(st.lists(st.tuples(Keys, st.booleans())))
def test_every_key_comes_out_exactly_once(pushed: list[tuple[tuple[str, str, str], bool]]) -> None:
    queue = fairqueues.FairQueue()
    for time, (key, urgent) in enumerate(pushed):
        queue.push(key, float(time), urgent=urgent)
        assert key in queue
    assert len(queue) == len({key for key, _ in pushed})
    first_seen = {key: float(time) for time, (key, _) in reversed(list(enumerate(pushed)))}
    assert {waiting.key: waiting.since for waiting in drain(queue)} == first_seen
