"""Simulations on Ray for learners with a replay buffer: transitions are taken as they come, learning waits for nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from melter.cluster.player import Fragment, Weights
from melter.cluster.ray_link import Cluster
from melter.cluster.simulations import RaySimulations
from melter.cluster.stream import Stream
from melter.policy.config import OffPolicy
from melter.policy.elsewhere import SimulationsElsewhere
from melter.policy.replay import Steps
from melter.policy.request import TrainRequest

PERIODS = 64
"""Control periods in a fragment."""


def simulations_on(
    cluster: Cluster, workers: int, tell: Callable[[str], None]
) -> Callable[[TrainRequest], SimulationsElsewhere]:
    """Return what makes a training's simulations on ``cluster``, spread over ``workers``."""

    def make(request: TrainRequest) -> SimulationsElsewhere:
        kind = StreamedSimulations if isinstance(request.settings, OffPolicy) else RaySimulations
        return kind(cluster, request, workers, tell)

    return make


class StreamedSimulations(RaySimulations):
    """Simulations whose transitions a learner with a replay buffer takes as they come (Horgan et al. 2018).

    What a worker plays depends on when which weights reached it, so that no two runs are alike.
    """

    def __init__(
        self, cluster: Cluster, request: TrainRequest, workers: int, tell: Callable[[str], None], cores_each: int = 1
    ) -> None:
        super().__init__(cluster, request, workers, tell, cores_each)
        self._settings = cast("OffPolicy", request.settings)
        self._stream = Stream(self.crew)

    def play(self, model: Any, callback: Any, steps: int) -> bool:
        """Put into ``model.replay_buffer`` what has come; wait for it only where nothing is left to learn from."""
        self._go_on_from_checkpoint(model)
        callback.on_rollout_start()
        while True:
            if self._may_play(model):
                self._stream.ask(lambda: Weights(model.shared(), model.used(), 0, model.num_timesteps, PERIODS))
            enough = self._unlearnt(model) >= steps * self.num_envs
            got = self._stream.take(wait=not enough)
            for number, fragment in got:
                self._take_in(model, callback, number, fragment)
            if got or enough:
                callback.on_rollout_end()
                return True

    def _take_in(self, model: Any, callback: Any, number: int, fragment: Fragment) -> None:
        played = cast("Steps", fragment.played)
        model.replay_buffer.put_played(self.crew.workers[number].share.first, played)
        model.num_timesteps += played.rewards.size
        model.ep_info_buffer.extend(fragment.episodes)
        callback.take_in(fragment.figures)

    def _learnt(self, model: Any) -> float:
        """Control steps that are learnt from, at as many gradient steps for each as without Ray."""
        return model._n_updates * self.num_envs / self._settings.gradient_steps

    def _unlearnt(self, model: Any) -> float:
        return model.num_timesteps - model.learning_starts - self._learnt(model)

    def _may_play(self, model: Any) -> bool:
        """Whether workers may play on: they are ahead of the learner by a fragment each, and by what the settings allow."""
        most = self._settings.ahead * self._learnt(model) + PERIODS * self.num_envs
        return model.num_timesteps - model.learning_starts < most
