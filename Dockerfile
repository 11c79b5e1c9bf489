# The harness with everything, and torch as the index has it: for Linux that is a CUDA build, which also runs without a GPU.
# A smaller CPU build: --build-arg PIP_ARGS="--index-url …" with an index of CPU builds.
#   docker build -t wsss-harness . && docker run --rm -v "$PWD/results:/results" wsss-harness run --methods vitpcm,cam
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

ARG PIP_ARGS=""
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ git \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/wsss-harness
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY harness harness
COPY methods methods
COPY configs configs
# pydensecrf2 asks for a Cython whose code Python 3.12 does not compile; with a later one it builds, as `make` does it.
RUN pip install --no-cache-dir -c constraints.txt ${PIP_ARGS} 'cython>=3' setuptools wheel numpy \
 && pip install --no-cache-dir -c constraints.txt ${PIP_ARGS} --no-build-isolation pydensecrf2==1.1 \
 && pip install --no-cache-dir -c constraints.txt ${PIP_ARGS} '.[all]'
ENV WSSS_HARNESS_RESULTS=/results
VOLUME /results
ENTRYPOINT ["harness"]
CMD ["--help"]
