# Targets: cpu, cuda, development. `docker build --target cpu --build-arg TORCH_INDEX=URL -t expunge:cpu .`
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:$PATH
RUN useradd --create-home --uid 1000 expunge \
    && python -m venv /opt/venv \
    && mkdir /work /source \
    && chown -R expunge:expunge /opt/venv /work /source
USER 1000
WORKDIR /source
COPY --chown=expunge:expunge requirements.lock ./

FROM base AS cpu-packages
# The version of the lock, from an index with builds for CPUs if one is given; the lock then accepts it.
ARG TORCH_INDEX=""
# hadolint ignore=DL3013 # the lock has the version
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.lock)" \
    && pip install -r requirements.lock

FROM base AS cuda-packages
# The default wheels bring the CUDA libraries; the host needs only a driver and the NVIDIA container toolkit.
RUN pip install -r requirements.lock

FROM cpu-packages AS cpu
COPY --chown=expunge:expunge pyproject.toml setup.py README.md LICENSE ./
COPY --chown=expunge:expunge src ./src
RUN pip install --no-deps .
WORKDIR /work
ENTRYPOINT ["expunge"]
CMD ["--help"]

FROM cuda-packages AS cuda
COPY --chown=expunge:expunge pyproject.toml setup.py README.md LICENSE ./
COPY --chown=expunge:expunge src ./src
RUN pip install --no-deps .
WORKDIR /work
ENTRYPOINT ["expunge"]
CMD ["--help"]

FROM cpu-packages AS development
USER 0
RUN apt-get update \
    && apt-get install -y --no-install-recommends git=1:2.* make=4.* \
    && rm -rf /var/lib/apt/lists/*
USER 1000
COPY --chown=expunge:expunge requirements-dev.lock ./
RUN pip install -r requirements-dev.lock
WORKDIR /work
CMD ["bash"]
