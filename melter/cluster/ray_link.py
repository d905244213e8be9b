"""Ray, reached or started; what cannot work is refused before anything is trained."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from melter.errors import BadInput

LOCAL, AUTO = "local", "auto"
ANSWER_S = 15.0
"""How long a cluster may take to answer."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process has joined."""

    ray: Any
    address: str
    cores: int
    nodes: int


def library() -> Any:
    """Return the module ray; raise BadInput, telling how to install it, where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise BadInput("--ray: needs the package ray; pip install 'melter[cluster]'") from None


def join(address: str = LOCAL, cores: int | None = None, nice: int = 0) -> Cluster:
    """Join the cluster at ``address``, or start Ray on this machine for ``local``.

    ``auto``: the cluster that RAY_ADDRESS names, or that runs on this machine. ``cores``: how many a local Ray may use;
    ``nice``: priority its workers give up (Ray's own default is 15).
    Raises BadInput where there is none, it does not answer, or runs another Python or Ray.
    """
    ray = library()
    if address.startswith("ray://"):
        raise BadInput(
            f"--ray {address}: fragments are too big for a Ray client; start this on a node, with --ray auto"
        )
    if ray.is_initialized():
        return _joined(ray, address)
    if address == LOCAL and "RAY_ADDRESS" in os.environ:
        address = AUTO
    known = os.environ.get("RAY_ADDRESS", "") if address == AUTO else address
    if address != LOCAL and known not in ("", AUTO, LOCAL):
        _ask(known)
    words: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_worker_niceness", str(nice))  # read by the Ray that is started here
            ray.init(num_cpus=cores, include_dashboard=False, **words)
        else:
            ray.init(address=address, **words)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BadInput(f"--ray {address}: {_first_line(error)}") from None
    return _joined(ray, address)


def leave(cluster: Cluster) -> None:
    """Leave the cluster; a Ray that was started here stops."""
    cluster.ray.shutdown()


def _joined(ray: Any, address: str) -> Cluster:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(ray, address, int(ray.cluster_resources().get("CPU", 0)), len(nodes))


def _ask(address: str) -> None:
    """Raise BadInput unless a Ray answers at ``address``, host:port."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(f"--ray {address}: must be HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise BadInput(
            f"--ray {address}: {error.strerror or error}; start Ray there with: ray start --head --port={port}"
        ) from None
    code = "import sys; from ray.scripts.scripts import cli; sys.argv = ['ray', 'health-check', '--address', sys.argv[1]]; cli()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, timeout=ANSWER_S, check=False, text=True
        )
        well = done.returncode == 0
    except subprocess.TimeoutExpired:
        well = False
    if not well:
        raise BadInput(f"--ray {address}: what listens there does not answer as Ray does, within {ANSWER_S:g} s")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
