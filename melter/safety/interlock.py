"""The interlock: what the gate may do when, as a table. A pair that is not listed is a fault."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class State(Enum):
    """Where the gate stands."""

    FAULTED = "faulted"
    """Closed: at power-up, and latched after a fault. Only the way to dark is open, where one is known."""
    ARMED = "armed"
    """At rest, cable lengths known, a person has armed it; nothing has moved yet."""
    TRANSIT = "transit"
    """A slow classical move between park and work."""
    WORK = "work"
    """The policy, or a hand at a jog key, drives."""
    DARKENING = "darkening"
    """The layer lowers the lens by itself; nobody else drives."""
    PARKED = "parked"
    """Dark and at rest; closed."""


class Event(Enum):
    """What can happen to the gate."""

    ARM = "arm"
    MOVE = "move"
    DRIVE = "drive"
    DARKEN = "darken"
    ARRIVE = "arrive"
    FAULT = "fault"


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.FAULTED, Event.ARM): State.ARMED,
        (State.FAULTED, Event.DARKEN): State.DARKENING,
        (State.FAULTED, Event.FAULT): State.FAULTED,
        (State.ARMED, Event.MOVE): State.TRANSIT,
        (State.ARMED, Event.DRIVE): State.WORK,
        (State.ARMED, Event.DARKEN): State.DARKENING,
        (State.ARMED, Event.FAULT): State.FAULTED,
        (State.TRANSIT, Event.MOVE): State.TRANSIT,
        (State.TRANSIT, Event.DRIVE): State.WORK,
        (State.TRANSIT, Event.DARKEN): State.DARKENING,
        (State.TRANSIT, Event.FAULT): State.FAULTED,
        (State.WORK, Event.DRIVE): State.WORK,
        (State.WORK, Event.MOVE): State.TRANSIT,
        (State.WORK, Event.DARKEN): State.DARKENING,
        (State.WORK, Event.FAULT): State.FAULTED,
        (State.DARKENING, Event.DARKEN): State.DARKENING,
        (State.DARKENING, Event.ARRIVE): State.PARKED,
        (State.DARKENING, Event.FAULT): State.FAULTED,
        (State.PARKED, Event.ARM): State.ARMED,
        (State.PARKED, Event.DARKEN): State.DARKENING,
        (State.PARKED, Event.FAULT): State.FAULTED,
    }
)


def next_state(state: State, event: Event) -> State:
    """Return the state after ``event``; FAULTED for a pair that :data:`TRANSITIONS` does not list."""
    return TRANSITIONS.get((state, event), State.FAULTED)
