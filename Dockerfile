# One image for teachers and students; the command says which.
#   docker build --build-arg PIP_ARGS="--extra-index-url URL" -t pantheon .   # a CPU-only torch
FROM python:3.11-slim AS builder

ARG PIP_ARGS=""
WORKDIR /src
RUN python -m venv --without-pip /opt/pantheon
COPY pyproject.toml constraints.txt ./
# The dependencies alone first, so that a change of the code does not install them again.
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
      more = project["optional-dependencies"]; \
      wanted = project["dependencies"] + more["demo"] + more["search"] + more["postgresql"]; \
      print("\n".join(each for each in wanted if not each.startswith(project["name"])))' \
      > requirements.txt \
 && python -m pip --python /opt/pantheon/bin/python install --no-cache-dir --no-compile \
      -c constraints.txt ${PIP_ARGS} -r requirements.txt
# What only serves to compile or to test is left out.
RUN cd /opt/pantheon/lib/python3*/site-packages \
 && rm -rf torch/include torch/test torch/bin/*test* torch/bin/protoc* torch/lib/*test*.so torch/share \
 && find . -depth -type d -name tests -not -path "./torch/*" -not -path "./numpy/*" \
      -exec rm -rf {} +

COPY README.md LICENSE ./
COPY pantheon pantheon
COPY teacher_server teacher_server
COPY student_client student_client
RUN python -m pip --python /opt/pantheon/bin/python install --no-cache-dir --no-compile \
      -c constraints.txt ${PIP_ARGS} --no-deps .
# A run of the demo shows that nothing is missing, and compiles the modules that are used: at run
# time the file system is read-only.
RUN cd /tmp && /opt/pantheon/bin/pantheon demo --seeds 1 --epochs 1 \
 && /opt/pantheon/bin/torchrun --help > /dev/null && rm -rf /tmp/runs \
 && /opt/pantheon/bin/python -c "import pantheon.compress.search.search, pg8000, alembic.command"

FROM python:3.11-slim

COPY --from=builder /opt/pantheon /opt/pantheon
# Volumes that are mounted on these folders belong to the user.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pantheon \
 && mkdir -p /keys/all /keys/teacher /keys/student /weights /knowledge /out /password \
 && chown pantheon:pantheon /keys/* /weights /knowledge /out /password && chmod 700 /keys/*
ENV PATH=/opt/pantheon/bin:$PATH HOME=/tmp XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
# For servers; services that are none turn it off.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 5557), 3)"]
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["pantheon"]
CMD ["--help"]
