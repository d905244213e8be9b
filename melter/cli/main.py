"""``melter``: finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys

from melter.errors import BadInput, CommandRefused, Fault, MelterError

COMMANDS = {
    "machine": "can this machine hold its lens (machine check)",
    "patch": "the light patch on the sand for a lens pose and a sun",
    "sim-train": "train a policy in simulation",
    "eval": "how well a policy keeps the spot on the path",
    "enjoy": "watch policies at work, live or as a video",
    "watch": "follow a training as it runs, here or elsewhere",
    "slurm": "a batch script that trains on a cluster",
    "push": "share a policy: a folder, a URL or the Hugging Face hub",
    "pull": "fetch a shared policy, checked",
    "tune": "search for better training settings",
    "export": "write a policy as an ONNX file",
    "safety-check": "run a model through the motors' limits: proven, violated, open",
    "calibrate": "camera, bed or machine from pictures and recordings",
    "track": "track the light patch in images, a video or a camera",
    "vision": "how well the tracker sees (bench); the pose network (dataset, train, eval)",
    "hw": "the motor controller by hand, the gate in between",
    "twin": "a rehearsal machine: a serial port and a camera with a simulated machine behind them",
    "real": "the real machine: run and record",
    "replay": "a recorded run drawn, filmed, or fed through the code again",
    "compare": "several runs side by side",
    "export-run": "a recorded run as a LeRobot dataset or a Rerun file",
    "rehearse": "the whole loop once: train, check, run on the rehearsal machine",
    "bench": "speed side by side with the peers",
}

EXIT_OK, EXIT_NO, EXIT_BAD_INPUT, EXIT_FAULT, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the answer is no, 2 bad input, 3 fault, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return EXIT_OK
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"melter {version('melter')}\n")
        return EXIT_OK
    name = arguments[0]
    if name not in COMMANDS:
        return _complain(f"{name}: no such command; known: {', '.join(COMMANDS)}", EXIT_BAD_INPUT)
    _one_thread_for_products()
    try:
        module = importlib.import_module(f"melter.cli.{name.replace('-', '_')}")
        return int(module.run(arguments[1:]))
    except (BadInput, CommandRefused) as error:
        return _complain(str(error), EXIT_BAD_INPUT)
    except Fault as error:
        return _complain(f"fault: {error}", EXIT_FAULT)
    except MelterError as error:
        return _complain(str(error), EXIT_NO)
    except KeyboardInterrupt:
        return _complain("interrupted; what was recorded is kept", EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_OK


def _one_thread_for_products() -> None:
    """Let matrix products use one thread unless the user said otherwise: here they are small, and idle threads spin."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    if not any(name in os.environ for name in names):
        from threadpoolctl import threadpool_limits

        os.environ.update(dict.fromkeys(names, "1"))  # for what is loaded later
        threadpool_limits(1)


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"melter: {' '.join(message.split())}\n")
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: melter COMMAND [options]",
            "",
            "Policies for a cable robot that melts sand into glass with sunlight.",
            "",
            *lines,
            "",
            "melter COMMAND --help tells each option, its unit and its default.",
            "Exit codes: 0 done, 1 the answer is no, 2 bad input or refused, 3 fault (made safe), 130 interrupted.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
