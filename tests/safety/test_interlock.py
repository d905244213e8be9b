"""The interlock table: every pair, listed or not."""

from __future__ import annotations

import itertools

import pytest

from melter.safety.interlock import TRANSITIONS, Event, State, next_state

CLOSED = (State.FAULTED, State.PARKED)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair(state: State, event: Event) -> None:
    after = next_state(state, event)
    assert after is TRANSITIONS.get((state, event), State.FAULTED)
    if event is Event.FAULT:
        assert after is State.FAULTED
    if event is Event.DARKEN:
        assert after is State.DARKENING  # the way to dark is open from everywhere
    if event in (Event.DRIVE, Event.MOVE) and state in (*CLOSED, State.DARKENING):
        assert after is State.FAULTED
    if event is Event.ARM:
        assert (after is State.ARMED) == (state in CLOSED)
    if event is Event.ARRIVE:
        assert (after is State.PARKED) == (state is State.DARKENING)


def test_only_arming_opens() -> None:
    opening = {
        (state, event)
        for (state, event), after in TRANSITIONS.items()
        if state in CLOSED and after not in (*CLOSED, State.DARKENING)
    }
    assert opening == {(State.FAULTED, Event.ARM), (State.PARKED, Event.ARM)}


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[(State.FAULTED, Event.DRIVE)] = State.WORK  # type: ignore[index]
