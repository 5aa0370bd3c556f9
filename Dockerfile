# An image with every command and role; docker-compose.yml shows how to run it.
# Pin the base by its digest at deployment: see docs/operations.md, Containers.
ARG PYTHON_IMAGE=python:3.11.16-slim-trixie

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY requirements/build.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY projections projections
COPY eventsched eventsched
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels .

FROM ${PYTHON_IMAGE}
# The owner of the mounted volumes: a fixed number, so that a new image can read old volumes.
RUN groupadd --gid 10001 eventsched \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin \
        eventsched \
    && install --directory --mode 700 --owner eventsched --group eventsched /archive /archive-key
COPY requirements/image.txt /tmp/
RUN pip install --no-cache-dir --no-compile --require-hashes -r /tmp/image.txt && rm /tmp/image.txt
COPY --from=build /build/wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps --no-index /tmp/wheels/*.whl && rm -r /tmp/wheels
WORKDIR /app
# The root file system may be read-only: Python writes no compiled modules.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
CMD ["eventsched", "--help"]
