FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /srv/fcn

# Dependencies first and alone: they weigh gigabytes and change seldom, the code does neither.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['tensorboard'], sep='\n')" > requirements.txt \
 && pip install --no-cache-dir --disable-pip-version-check -r requirements.txt \
 && rm requirements.txt

COPY LICENSE README.md ./
COPY checkpoints ./checkpoints
COPY model ./model
COPY app ./app
# Editable, so that the code is where it says it is; gives the `fcn` command and the version.
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --editable .

# runs/ is where training in this image writes.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin fcn \
 && install -d -o fcn -g fcn runs
USER fcn

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]

# Exec form: SIGTERM reaches the server itself, which then drains.
CMD ["python", "-m", "app.serve", "--host", "0.0.0.0", "--port", "8000"]
