"""melter: policies for a cable robot that melts sand into glass with sunlight.

Importing this package registers ``melter/SandMelter-v0`` with Gymnasium, where Gymnasium is installed.
"""

from importlib.util import find_spec

if find_spec("gymnasium") is not None:
    from gymnasium.envs.registration import register, registry

    if "melter/SandMelter-v0" not in registry:
        register(
            id="melter/SandMelter-v0",
            entry_point="melter.env.gym_env:SandMelterEnv",
            vector_entry_point="melter.env.gym_env:SandMelterVectorEnv",
        )
