"""The known ledgers, by namespace and in the order of their last use."""

from hypothesis import given
from hypothesis import strategies as st

from manifestry.adapters.quota.shelves import Shelf

Keys = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"))


def test_what_was_put_last_stands_last() -> None:
    shelf: Shelf[int] = Shelf()
    for number, name in enumerate(("x", "y", "x")):
        shelf["a", name] = number
    assert list(shelf) == [("a", "y"), ("a", "x")]
    assert shelf.pop(("a", "none"), None) is None


@given(st.lists(st.tuples(Keys, st.booleans())))
def test_a_namespace_finds_just_its_own(moves: list[tuple[tuple[str, str], bool]]) -> None:
    shelf: Shelf[int] = Shelf()
    for number, (key, put) in enumerate(moves):
        if put:
            shelf[key] = number
        else:
            shelf.pop(key, None)
    for namespace in "abc":
        wanted = {key: item for key, item in shelf.items() if key[0] == namespace}
        assert dict(shelf.of(namespace)) == wanted
