"""Whose a store is: the record in it, what a cluster remembers of it, and what follows from the two.

A store belongs to the cluster whose uid, that of `kube-system`, its record names. This does not tell a
cluster from its clone, made from a snapshot of etcd. So the leader puts a new random *turn* into the record
again and again, by compare-and-swap, and notes the turn in the cluster before that. Who finds a turn in the
store that its own cluster has not noted looks at a store that somebody else goes on with: a clone beside the
original, a cluster restored to an earlier time, or a store that was put back.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

# A leader that fails between the note and the record leaves a turn that nobody has seen; so many may follow.
TURNS_KEPT: Final = 8
NOBODY: Final = "unreadable"
_START: Final = b'{"version": 1, "clusterUid": "'  # what versions without turns wrote, too


class State(Enum):
    """What a cluster may do with a store; the value is the reason that readiness gives."""

    OURS = ""
    ABSENT = "the store has no owner yet"
    BLANK = "the record of the store's owner is empty; it is written anew when it is five minutes old"
    UNREADABLE = "the record of the store's owner (gc/owner.json) cannot be read"
    FOREIGN = "the store belongs to another cluster"
    DIVERGED = (
        "the store is used by a clone of this cluster, or this cluster or the store was restored to an "
        "earlier time: see `store adopt` in docs/operations.md"
    )
    VANISHED = "the record of the store's owner has gone: another or an emptied store is in its place"


@dataclass(frozen=True)
class Record:
    """What `gc/owner.json` says.

    Args:
        cluster_uid: the uid of the owner's `kube-system`.
        turn: the last one that a leader has put there; empty when none has.
        leader: which process that was, for people.
        renewed: when, for people.
    """

    cluster_uid: str
    turn: str = ""
    leader: str = ""
    renewed: str = ""


@dataclass(frozen=True)
class Home:
    """What a cluster knows of itself.

    Args:
        cluster_uid: the uid of `kube-system`.
        turns: those that its leaders have noted, the latest last.
    """

    cluster_uid: str
    turns: tuple[str, ...] = ()


def render(record: Record) -> bytes:
    """Return the record's content; earlier versions read `clusterUid` of it."""
    document = {"version": 1, "clusterUid": record.cluster_uid}
    more = {"turn": record.turn, "leader": record.leader, "renewTime": record.renewed}
    return json.dumps(document | {key: value for key, value in more.items() if value}).encode()


def parse(data: bytes) -> Record | None:
    """Return what a record says, None when that cannot be read."""
    try:
        match json.loads(data):
            case {"clusterUid": str(uid), **more} if uid:
                return Record(uid, _text(more, "turn"), _text(more, "leader"), _text(more, "renewTime"))
    except ValueError:
        pass
    return None


def _text(document: dict[Any, Any], name: str) -> str:
    return str(document.get(name) or "")


def is_blank(data: bytes) -> bool:
    """Tell whether a record was cut off before it names a cluster; a power cut may leave zeros."""
    return _START.startswith(data.rstrip(b"\0"))


def judge(found: bytes | None, home: Home) -> State:
    """Return whose a store is.

    Args:
        found: the record, None when there is none.
        home: read after the record: a turn is noted before it is in the store.
    """
    if found is None:
        return State.ABSENT
    if is_blank(found):
        return State.BLANK
    record = parse(found)
    if record is None:
        return State.UNREADABLE
    if record.cluster_uid != home.cluster_uid:
        return State.FOREIGN
    return State.DIVERGED if record.turn and record.turn not in home.turns else State.OURS


def adoption_problem(state: State, owner: str, given: str) -> str:
    """Return why a cluster must not adopt a store, empty when it may.

    Args:
        state: what it found.
        owner: the uid of the cluster that the record names, empty when it names none that can be read.
        given: what the administrator says whose the store is.
    """
    if state in {State.OURS, State.ABSENT, State.BLANK} or given == (owner or NOBODY):
        return ""
    return f"{state.value}; to adopt it say `--from {owner or NOBODY}`"


def remember(turns: Sequence[str], current: str, new: str) -> tuple[str, ...]:
    """Return the turns to note before `new` goes into the record.

    Args:
        turns: those noted so far.
        current: the one in the record; it must stay known until the record has another.
        new: the next one.
    """
    others = [turn for turn in turns if turn != current]
    kept = others[-(TURNS_KEPT - 2) :]
    return (*((current,) if current else ()), *kept, new)
