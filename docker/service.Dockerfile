# The service without torch: CPython, the hashed pins and the wheel; nothing that compiles.
# For NVIDIA GPUs: --build-arg REQUIREMENTS=service-gpu.txt
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# Where the image is built behind a proxy index, pip's own variables say so: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The pins come first: their layer is made again only when they change. pip compiles what it installs to bytecode, which
# the container, whose file system is read-only, cannot do at its start. The tests of libraries stay behind.
ARG REQUIREMENTS=service.txt
# HEIF (HEIC), as phones send it, where it is not empty: 27 MB more, under the GPL.
ARG HEIC=
COPY requirements/${REQUIREMENTS} requirements/heic.txt requirements/build.txt requirements/
RUN python3 -m venv --without-pip /opt/d3gzsl \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --quiet --require-hashes --only-binary :all: -r requirements/build.txt \
    && /opt/build/bin/pip --python /opt/d3gzsl/bin/python install --quiet --require-hashes --only-binary :all: \
        -r requirements/${REQUIREMENTS} ${HEIC:+-r requirements/heic.txt} \
    && cd /opt/d3gzsl/lib/python3*/site-packages && rm -r onnx/backend/test && find numpy scipy -type d -name tests -prune -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
COPY training training
RUN /opt/build/bin/python -m hatchling build -t wheel -d /dist \
    && /opt/build/bin/pip --python /opt/d3gzsl/bin/python install --quiet --no-deps --no-index /dist/*.whl

FROM ${PYTHON}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin d3gzsl \
    && install -d -o d3gzsl -g d3gzsl /data
COPY --from=build /opt/d3gzsl /opt/d3gzsl
ENV PATH=/opt/d3gzsl/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    D3GZSL_HOST=0.0.0.0 D3GZSL_PORT=8000 D3GZSL_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# A port that is no number is what an orchestrator set for a service of this name; d3gzsl then takes its default.
# Only the standard library, and no packages looked for: the check runs all day, beside the model.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python3", "-IS", "-c", "import os, sys, http.client; port = os.environ['D3GZSL_PORT']; connection = http.client.HTTPConnection('127.0.0.1', int(port) if port.isdecimal() else 8000, timeout=8); connection.request('GET', '/readyz'); sys.exit(connection.getresponse().status != 200)"]
ENTRYPOINT ["d3gzsl"]
CMD ["serve"]
