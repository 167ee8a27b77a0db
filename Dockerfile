# One image for teachers and students; the command says which.
#   docker build --build-arg PIP_ARGS="--extra-index-url URL" -t pantheon .   # a CPU-only torch
FROM python:3.11-slim

ARG PIP_ARGS=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pantheon pantheon
COPY teacher_server teacher_server
COPY student_client student_client
RUN python -m pip install --no-cache-dir -c constraints.txt ${PIP_ARGS} ".[demo]"

WORKDIR /work
ENTRYPOINT ["pantheon"]
CMD ["--help"]
