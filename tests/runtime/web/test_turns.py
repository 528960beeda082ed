"""Turns: who asked first comes first, but nobody waits for all that another one asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smalti.web.desk.turns import Turns

orders = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 99)), max_size=40)


def filled(asked) -> Turns:
    turns = Turns()
    for index, (client, _) in enumerate(asked):
        turns.put(client, (client, index))
    return turns


def emptied(turns: Turns) -> list:
    return [turns.take() for _ in range(len(turns))]


@given(orders)
def test_all_orders_are_taken_once_and_those_of_a_client_as_they_came(asked):
    taken = emptied(turns := filled(asked))
    assert sorted(index for _, index in taken) == list(range(len(asked)))
    for client in "abcd":
        own = [index for name, index in taken if name == client]
        assert own == sorted(own)
    assert turns.take() is None
    assert len(turns) == 0


@given(orders)
def test_between_two_orders_of_a_client_everybody_else_who_waits_has_a_turn(asked):
    taken = emptied(filled(asked))
    for place, (client, _) in enumerate(taken):
        later = [name for name, _ in taken[place + 1 :]]
        if client in later:
            between = later[: later.index(client)]
            assert set(between) == set(later) - {client}
            assert len(set(between)) == len(between)


@given(orders, st.data())
def test_what_is_withdrawn_never_comes(asked, data):
    turns = filled(asked)
    away = data.draw(st.sets(st.sampled_from(range(len(asked)))) if asked else st.just(set()))
    for index in away:
        assert turns.remove((asked[index][0], index))
        assert not turns.remove((asked[index][0], index))
    assert {index for _, index in emptied(turns)} == set(range(len(asked))) - away


@given(orders)
def test_of_each_client_only_the_first_order_may_join_a_batch(asked):
    turns = filled(asked)
    before = {client: [index for index, (name, _) in enumerate(asked) if name == client] for client in "abcd"}
    joined = []
    while (found := turns.take_like(lambda one: one[1] % 2 == 0)) is not None:
        client, index = found
        assert before[client].pop(0) == index
        joined.append(index)
    assert all(index % 2 == 0 for index in joined)
    assert all(not own or own[0] % 2 for own in before.values())
