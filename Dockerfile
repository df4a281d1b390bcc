# syntax=docker/dockerfile:1
# One image for every Goodsyard process; the command says which. It carries no server, no test tool, no pip.

# A tag moves. A release names the digest it was tested with: --build-arg PYTHON=python:3.13-slim@sha256:...
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Apart from the sources, so that only a change of the lock installs again.
COPY requirements/production.txt requirements/build.txt requirements/
RUN python -m venv --without-pip /opt/goodsyard \
 && pip --python /opt/goodsyard install --require-hashes --requirement requirements/production.txt \
 && pip install --require-hashes --requirement requirements/build.txt

COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY goodsyard goodsyard
COPY commerce commerce
COPY tasks tasks
COPY producers producers
COPY workers workers
COPY ops ops
RUN hatchling build --target wheel --directory dist \
 && pip --python /opt/goodsyard install --no-index --no-deps dist/*.whl

FROM ${PYTHON}
RUN groupadd --gid 10001 goodsyard \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/goodsyard --create-home --shell /usr/sbin/nologin goodsyard
COPY --from=build /opt/goodsyard /opt/goodsyard
# The root file system may be mounted read-only: what is compiled was compiled above. Only /tmp is written to,
# and by the sandbox the folder of its log, a volume.
ENV PATH=/opt/goodsyard/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
# Everything ends cleanly on SIGTERM: jobs in hand are finished, the rest goes back.
STOPSIGNAL SIGTERM
# Health is asked for where it is known what runs: see docker-compose.yml.
ENTRYPOINT ["goodsyard"]
