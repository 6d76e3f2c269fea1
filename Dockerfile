# One image that serves and trains. README.md and docs/deployment.md say how it is run.

FROM python:3.12-slim-bookworm AS wheels

# Another lock file and the index that has its files make a smaller image; docs/deployment.md.
ARG REQUIREMENTS=requirements.lock
# pip reads these two as they are.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY ${REQUIREMENTS} /requirements.lock
# Wheels only: nothing is compiled, here or anywhere.
RUN pip download --no-cache-dir --disable-pip-version-check --progress-bar off \
      --require-hashes --no-deps --only-binary :all: --dest /wheels -r /requirements.lock


FROM python:3.12-slim-bookworm

# /tmp is all that a read-only root leaves to write to: caches of fonts, kernels and plots go there.
ENV HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    TRITON_HOME=/tmp \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    CUDA_CACHE_PATH=/tmp/cuda \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /srv/fcn

# runs/ is where training writes, and compose mounts a volume there. A new volume begins with what
# is in the image: a link by which the default checkpoint serves until another takes its place.
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin fcn \
 && install -d -o fcn -g fcn runs \
 && ln -s ../checkpoints/camvid-fcn8s-vgg16bn.safetensors runs/serving.safetensors

# Gigabytes that change seldom, before the code that changes often. The wheels are not in the layer.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    --mount=type=bind,from=wheels,source=/requirements.lock,target=/requirements.lock \
    pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore \
      --require-hashes --no-deps --no-index --find-links /wheels -r /requirements.lock

COPY checkpoints ./checkpoints
COPY pyproject.toml LICENSE README.md ./
COPY model ./model
COPY app ./app
# Editable, so that the code is where it says it is; gives the `fcn` command and the version.
# Bytecode is written now, as nothing can be written later. A clone made under a strict umask would
# not be readable for the user below.
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore \
      --no-deps --no-index --no-build-isolation --editable . \
 && python -m compileall -q app model \
 && find . -not -type l -not -perm -o=r -exec chmod o+rX {} +

# Last, as they change with every commit; compose and `make up` fill the revision in.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fcn-service" \
      org.opencontainers.image.description="Train an FCN-8s on your own images, serve it, get per-class masks back." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A training run notes it.
ENV SOURCE_REVISION=${REVISION}

# By number: Kubernetes' runAsNonRoot cannot look names up.
USER 10001:10001

EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s --retries=3 \
  CMD ["python", "-m", "app.serve.healthcheck"]

# Exec form: SIGTERM reaches the server itself, which then drains.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "app.serve", "--host", "0.0.0.0", "--port", "8000"]
