# Training: CPython, torch with CUDA from the hashed pins, and the wheel. A GPU needs NVIDIA's driver on the host only.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# Where the image is built behind a proxy index, pip's own variables say so: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The pins come first: their layer of several gigabytes is made again only when they change.
COPY requirements/training.txt requirements/build.txt requirements/
RUN python3 -m venv --without-pip /opt/d3gzsl \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --quiet --require-hashes --only-binary :all: -r requirements/build.txt \
    && /opt/build/bin/pip --python /opt/d3gzsl/bin/python install --quiet --require-hashes --only-binary :all: \
        -r requirements/training.txt
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY training training
RUN /opt/build/bin/python -m hatchling build -t wheel -d /dist \
    && /opt/build/bin/pip --python /opt/d3gzsl/bin/python install --quiet --no-deps --no-index /dist/*.whl

FROM ${PYTHON}
# Triton compiles a launcher for each kernel of the training step with the system's C compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/d3gzsl /opt/d3gzsl
# The folder of the data belongs to whoever calls, so that the container has any user's id and no home of its own.
ENV PATH=/opt/d3gzsl/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TRITON_CACHE_DIR=/tmp/triton
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["d3gzsl-train"]
CMD ["--help"]
