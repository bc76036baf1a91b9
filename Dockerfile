# Training image: VeRL's SGLang image with the locked versions over it, Redis, and both packages.
#   docker build -t cleaner .
# How to start it: docs/recipes.md#container
FROM verlai/verl:sgl0512.latest

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /workspace/cleaner
COPY pyproject.toml uv.lock README.md VERSION ./
COPY verl verl
COPY code-judge code-judge

# The image's own interpreter, so that its CUDA build of torch and its flash-attn stay. Compiled once, instead of in each
# of a run's processes.
RUN python3 -m pip install --no-cache-dir uv \
    && uv export --frozen --no-dev --no-emit-workspace --extra sglang --no-hashes -o /tmp/requirements.txt \
    && uv pip install --system --break-system-packages --no-cache --compile-bytecode -r /tmp/requirements.txt \
    && uv pip install --system --break-system-packages --no-cache --compile-bytecode --no-deps -e code-judge -e verl

COPY recipe recipe
COPY data_filter.sh ./

# The recipes use this interpreter instead of making .venv.
ENV PYTHON=python3
CMD ["bash"]
