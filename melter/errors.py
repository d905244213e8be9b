"""The one error tree of melter.

::

    MelterError
    ├── BadInput               what the user gave cannot be used          exit 2
    │   ├── MachineFileError   a machine file: key, value, allowed range
    │   ├── ModelFileError     a policy file that is not one, or not for this machine
    │   ├── OutputExists       an output that would overwrite another run
    │   ├── PortError          a serial port: absent, busy, another device behind it
    │   └── CameraError        a video source that gives no frame, or no markers at the start
    ├── CommandRefused         the gate let nothing through
    ├── Fault                  something broke while running; made safe   exit 3
    │   ├── LinkFault          the motor controller: silence, alarm, reset, position jump
    │   └── VisionFault        the camera or the patch: stale, lost, nudged
    ├── SimulationDiverged     a simulation left the finite numbers
    └── NoEllipse              the plane cuts no ellipse from the light cone

Messages give the name, the value and what is allowed, on one line.
"""


class MelterError(Exception):
    """Anything that melter reports on one line instead of a traceback."""


class BadInput(MelterError):
    """What the user gave cannot be used; nothing was written or moved."""


class MachineFileError(BadInput):
    """A machine file is missing, malformed, out of range or geometrically impossible."""


class ModelFileError(BadInput):
    """A policy file is not one, is damaged, or belongs to another machine or observation."""


class OutputExists(BadInput):
    """An output path already holds something that would be overwritten."""


class PortError(BadInput):
    """A serial port is absent, busy, not permitted, or has another device behind it."""


class CameraError(BadInput):
    """A video source gives no frame, or lacks what is needed to start."""


class CommandRefused(MelterError):
    """The gate refused a command: not armed, not finite, stale, or outside a limit."""


class Fault(MelterError):
    """Something broke while the machine was running; it has been made safe."""


class LinkFault(Fault):
    """The motor controller fell silent, raised an alarm, reset itself or lost its position."""


class VisionFault(Fault):
    """The camera or the light patch is stale, lost or no longer where it was calibrated."""


class SimulationDiverged(MelterError):
    """A simulation produced numbers that are not finite."""


class NoEllipse(MelterError):
    """The plane cuts a parabola, a hyperbola, a point or nothing from the light cone."""
