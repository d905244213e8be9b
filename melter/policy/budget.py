"""What all learners share: schedules that follow a run's budget, and a model file that holds a plain model and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

OWN = ("rng", "share", "rate", "starter")
PASSING = (
    *(
        "lr_schedule",
        "start_time",
        "ep_info_buffer",
        "ep_success_buffer",
        "replay_buffer_class",
        "replay_buffer_kwargs",
    ),
    *("_last_obs", "_last_episode_starts", "_last_original_obs"),
    *("_total_timesteps", "_num_timesteps_at_start", "_current_progress_remaining"),
)
"""What stable-baselines3 makes anew when it loads, and would tie a file to this package, or to the minute it was written in."""


class Budgeted:
    """Mixed into a stable-baselines3 algorithm. ``share`` tells how much of the budget is used up, be it time or steps."""

    share: Callable[[], float] | None = None
    """Share of the budget that is used up, 0 to 1; None: stable-baselines3's own count of steps."""
    rate: Callable[[float], float] | None = None
    """Learning rate by that share; None: stable-baselines3's own schedule."""
    rng: np.random.Generator
    """All randomness that NumPy draws while learning."""

    def follow(self, share: Callable[[], float], rate: Callable[[float], float]) -> None:
        """Let schedules follow ``share`` of the budget."""
        self.share, self.rate = share, rate

        def by_rest(left: float) -> float:
            return rate(1.0 - left)

        self.lr_schedule = by_rest

    def used(self) -> float:
        """Share of the budget that is used up."""
        return 1.0 - float(self._current_progress_remaining) if self.share is None else min(self.share(), 1.0)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        if self.share is None:
            super()._update_current_progress_remaining(num_timesteps, total_timesteps)  # type: ignore[misc]
        else:
            self._current_progress_remaining = 1.0 - min(self.share(), 1.0)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *OWN, *PASSING]  # type: ignore[misc]

    def note_episodes(self: Any, ended: Any, infos: list[dict[str, Any]]) -> None:
        """Keep return and length of the episodes that ended, as ``Monitor`` tells them."""
        self.ep_info_buffer.extend(infos[i]["episode"] for i in ended if "episode" in infos[i])
