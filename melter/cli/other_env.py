"""``melter sim-train --env ID``: another Gymnasium environment."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from melter.cli.common import emit, require_in, say
from melter.cli.elsewhere import is_url, uploading
from melter.errors import BadInput

if TYPE_CHECKING:
    from melter.cli.sim_train import SimTrain
    from melter.policy.plain import PlainProgress

GOES_WITH = ("--env", "--algo", "--set", "--steps", "--minutes", "--envs", "--seed", "--out", "--nice", "--json")
SAY_EVERY_S = 15.0


def train_other(options: SimTrain, argv: list[str]) -> int:
    """Train and return the exit code."""
    names = {word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
    unlike = sorted(names - set(GOES_WITH))
    if unlike:
        raise BadInput(f"{unlike[0]}: does not go with --env, which takes {', '.join(GOES_WITH[1:])}")
    require_in("--seed", options.seed, 0, 2**31 - 1)
    from melter.policy.files import new_run_folder
    from melter.policy.plain import plain_request, train_plain

    neither = options.minutes is None and options.steps is None
    budget = options.steps, 3.3 if neither else options.minutes
    request = plain_request(str(options.env), options.algo, options.set, options.envs, budget, options.seed)
    store = None
    if is_url(options.out):
        from melter.cluster.store import writable_store

        store = writable_store(str(options.out))
    name = request.env_id.rpartition("/")[2].replace(":", "-")
    folder = new_run_folder(None if store else options.out, f"{options.algo}-{name}")
    os.nice(options.nice)
    say(f"training {options.algo} on {request.env_id} into {folder}")
    with uploading(folder, store) as uploader:
        found = train_plain(request, folder, _Show())
    missing = uploader.missing if uploader else []
    rate = found["steps"] / max(found["seconds"], 1e-9)
    text = f"return {found['return_mean']:.2f} ± {found['return_std']:.2f} over {found['episodes']} episodes; {rate:,.0f} steps/s"
    result = {"model": folder / "model.zip", "run": folder, "steps": found["steps"], "seconds": found["seconds"]}
    emit(
        {**result, "steps_per_s": rate, "eval": {request.env_id: found}},
        options.json,
        f"{text}\npolicy: {folder}/model.zip",
    )
    return 3 if missing else 0


class _Show:
    """A line of progress every now and then."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, progress: PlainProgress) -> None:
        now = time.monotonic()
        if now - self._said < SAY_EVERY_S:
            return
        self._said = now
        left_s = progress.seconds * (1 - progress.share) / max(progress.share, 1e-6)
        told = f"{100 * progress.share:3.0f} %  {progress.steps:,} steps  return {progress.episode_return:.2f}  {left_s:.0f} s left"
        say(told)
