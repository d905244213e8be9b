#!/bin/sh
# Refuses build arguments that training would refuse, and names that are easily mistaken, before anything is installed.
set -eu

refuse() {
  echo "build argument $1" >&2
  exit 2
}

for name in ALGO ALGORITHM ARG ARGUMENTS OPTIONS ENV ENVIRONMENT STEPS MINUTES SEED; do
  eval "value=\${$name:-}"
  [ -z "$value" ] || refuse "$name=$value: unknown; known: ALGO_NAME, ARGS (options of melter sim-train, such as --steps), ENV_ID"
done
case $ALGO_NAME in
  ppo | a2c | trpo | sac | td3 | ddpg | tqc | crossq) ;;
  *) refuse "ALGO_NAME=$ALGO_NAME: must be ppo, a2c, trpo, sac, td3, ddpg, tqc or crossq" ;;
esac
case $ENV_ID in
  "" | *[!A-Za-z0-9_./:-]*) refuse "ENV_ID=$ENV_ID: must be a Gymnasium environment's id, such as Pendulum-v1" ;;
esac
for word in $ARGS; do
  case $word in
    --algo | --algo=* | --out | --out=* | --env | --env=* | --resume | --resume=* | --ray | --ray=*)
      refuse "ARGS: $word is settled by the build" ;;
  esac
done
: > "${ASKED:-/asked}"
