# Trains on any machine that builds images, and brings the run folder home:
#
#   docker build --output=. --build-arg ALGO_NAME=td3 --build-arg ARGS='--minutes 30 --seed 7' .
#
# here, on DOCKER_HOST=ssh://you@machine, or with a git URL in place of the dot. --progress=plain shows how it goes.
# docker build --target test . runs the tests. See docs/remote.md.

ARG PYTHON=3.11
ARG ALGO_NAME=ppo
ARG ARGS=""
ARG ENV_ID=melter/SandMelter-v0

FROM docker.io/library/python:${PYTHON}-slim AS base
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
RUN useradd --create-home --uid 10001 melter && python -m venv "$VIRTUAL_ENV"

# What is asked for, checked before anything is installed. Names that are easily mistaken are refused, not ignored.
FROM base AS asked
ARG ALGO_NAME ARGS ENV_ID
ARG ALGO="" ALGORITHM="" ARG="" ARGUMENTS="" OPTIONS="" ENV="" ENVIRONMENT="" STEPS="" MINUTES="" SEED=""
COPY scripts/docker_asked.sh /usr/local/bin/
RUN sh /usr/local/bin/docker_asked.sh

# Everything but melter itself, every version pinned; changes only with these two files.
FROM base AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY pyproject.toml constraints.txt scripts/docker_packages.sh /src/
RUN sh /src/docker_packages.sh contrib

FROM packages AS melter
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY models /src/models
COPY melter /src/melter
RUN pip install --no-deps --constraint /src/constraints.txt /src
WORKDIR /home/melter
USER melter

FROM packages AS test
RUN sh /src/docker_packages.sh dev
COPY . /src
RUN pip install --no-deps --constraint /src/constraints.txt --editable /src && chown -R melter /src
WORKDIR /src
USER melter
ARG TESTS=""
RUN ruff check . && python -m pytest -n 2 $TESTS

# Training takes nothing from the network: once --target melter is built, docker build --network=none trains as well.
FROM melter AS trained
ARG ALGO_NAME ARGS ENV_ID
COPY --from=asked /asked /tmp/asked
RUN stamp=$(date -u +%Y%m%d-%H%M%S) && eval "set -- $ARGS" && \
    if [ "$ENV_ID" = melter/SandMelter-v0 ]; then \
      melter sim-train --algo "$ALGO_NAME" --out "results/$ALGO_NAME-$stamp" "$@"; \
    else \
      melter sim-train --algo "$ALGO_NAME" --env "$ENV_ID" --out "results/$ALGO_NAME-$stamp" "$@"; \
    fi

# The run folder and nothing else.
FROM scratch AS results
COPY --from=trained /home/melter/results/ /
