#!/usr/bin/env bash
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
# A recipe on all nodes of a SLURM allocation: Ray everywhere, Redis and the judge's API on the first node, judge workers
# on all. From the repository's root, which lies on shared storage like model, data and OUTPUT_DIR:
#   sbatch --nodes N --gpus-per-node G recipe/cleaner/slurm.sh RECIPE [key=value …]
# PYTHON names the interpreter (empty: .venv); JUDGE_WORKERS the programs that run at a time on each node.
set -euo pipefail
(($#)) || { echo "error: expected a recipe, e.g. recipe/cleaner/qwen3_4b_cleaner.sh" >&2; exit 1; }
python=${PYTHON:-$PWD/.venv/bin/python}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ray_port=6380 redis_port=6379 judge_port=8088
# Nobody but this job's processes may use the queue and Ray.
secret=$(head -c 24 /dev/urandom | base64 | tr -dc 'a-zA-Z0-9')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$secret
export REDIS_URI=redis://:$secret@$head:$redis_port MAX_EXECUTION_TIME=${MAX_EXECUTION_TIME:-4}

on_head() { srun --overlap --nodes 1 --ntasks 1 --nodelist "$head" "$@"; }
on_all() { srun --overlap --nodes "$SLURM_NNODES" --ntasks "$SLURM_NNODES" "$@"; }

# The password travels through the environment: arguments are visible to everybody on the node.
export REDIS_SECRET=$secret
# shellcheck disable=SC2016  # expanded on the node
on_head bash -c 'echo "requirepass $REDIS_SECRET" | redis-server - --bind 0.0.0.0 --port "$0" --save ""' "$redis_port" &
MAX_WORKERS=${JUDGE_WORKERS:-64} on_all "$python" code-judge/run_workers.py &
RUN_WORKERS=0 on_head "$python" -m uvicorn app.main:app --app-dir code-judge --host 0.0.0.0 --port "$judge_port" --workers 8 &
on_head "$python" -m ray.scripts.scripts start --head --port "$ray_port" --block &
# Every other node joins; srun leaves the head out.
if ((SLURM_NNODES > 1)); then
  srun --overlap --nodes $((SLURM_NNODES - 1)) --ntasks $((SLURM_NNODES - 1)) --exclude "$head" \
    "$python" -m ray.scripts.scripts start --address "$head:$ray_port" --block &
fi
export RAY_ADDRESS=$head:$ray_port CODE_JUDGE_URL=http://$head:$judge_port NNODES=$SLURM_NNODES
export NUM_GPU=${NUM_GPU:-${SLURM_GPUS_ON_NODE:?name --gpus-per-node}}
for _ in {1..60}; do
  nodes=$("$python" -c 'import ray; ray.init(log_to_driver=False); print(sum(n["Alive"] for n in ray.nodes()))' 2> /dev/null) || nodes=0
  ((nodes == NNODES)) && break
  sleep 5
done
((nodes == NNODES)) || { echo "error: $nodes of $NNODES nodes joined Ray" >&2; exit 1; }
PYTHON=$python on_head bash "$@"
