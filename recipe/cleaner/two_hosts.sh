#!/usr/bin/env bash
# Several nodes on one machine: docs/multi-node.md as a script, with two "hosts" that are network namespaces.
#   sudo bash recipe/cleaner/two_hosts.sh [--judge | --job] [--steps N] [key=value …]
# Each host has an address, a name, /etc/hosts and a /tmp/ray of its own; one veth pair joins them. On both run Ray, agent
# loops, a rank of the training and judge workers; Redis and the judge's API run on the host "head". After the first step,
# the judge workers of the other host are killed. --judge: only the judge, and programs that say where they ran. --job: the
# training is a job of the cluster.
# The training is the quickstart's, on CPU. Needs root (namespaces), redis-server and ip; leaves OUTPUT_DIR and no process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh

only_judge="" job="" steps=3 settings=()
while (($#)); do
  case $1 in
    --judge) only_judge=1 ;;
    --job) job=1 ;;
    --steps) steps=${2:?--steps needs a number} && shift ;;
    *=*) settings+=("$1") ;;
    *) die "unknown argument '$1'; expected --judge, --job, --steps N or Hydra overrides key=value" ;;
  esac
  shift
done
[[ $steps =~ ^[1-9][0-9]*$ ]] || die "--steps must be a positive whole number, got $steps"

# Everything below runs in namespaces of its own: its processes end with the script, however that ends.
if [[ -z ${TWO_HOSTS_INSIDE:-} ]]; then
  [[ $(id -u) == 0 ]] || die "network namespaces need root; start with sudo"
  for tool in ip nsenter unshare redis-server; do
    command -v "$tool" > /dev/null || die "$tool is not installed (packages iproute2, util-linux, redis-server)"
  done
  [[ -n ${PYTHON:-} ]] || setup_environment --no-dev --inexact
  export TWO_HOSTS_INSIDE=1 PYTHON=${PYTHON:-$PWD/.venv/bin/python}
  export OUTPUT_DIR=${OUTPUT_DIR:-outputs/two_hosts/$(date +%Y%m%d-%H%M%S)}
  arguments=(--steps "$steps" ${only_judge:+--judge} ${job:+--job} ${settings[@]+"${settings[@]}"})
  exec unshare --net --mount --pid --fork --kill-child --mount-proc bash "${BASH_SOURCE[0]}" "${arguments[@]}"
fi

mkdir -p "$OUTPUT_DIR"
logs=$(realpath "$OUTPUT_DIR")
declare -A holder address=([head]=10.77.0.1 [worker]=10.77.0.2)

# host NAME: a process that holds the namespaces of one host.
host() {
  local name=$1 own="$logs/$1"
  mkdir -p "$own/ray" /tmp/ray
  printf '127.0.0.1 localhost\n%s head\n%s worker\n' "${address[head]}" "${address[worker]}" > "$own/hosts"
  rm -f "$own/ready"
  # shellcheck disable=SC2016  # expanded in the namespaces
  unshare --net --mount --uts bash -c '
    hostname "$0" && mount --bind "$1/hosts" /etc/hosts && mount --bind "$1/ray" /tmp/ray && touch "$1/ready"
    exec sleep infinity' "$name" "$own" &
  holder[$name]=$!
  until [[ -e $own/ready ]]; do
    kill -0 "${holder[$name]}" 2> /dev/null || die "the namespaces of host $name could not be made"
    sleep 0.05
  done
}

# on HOST COMMAND…
on() {
  local name=$1
  shift
  nsenter --target "${holder[$name]}" --net --mount --uts --wd="$PWD" "$@"
}

# until_ready SECONDS WHAT COMMAND…
until_ready() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    ((SECONDS < end)) || die "$what is not ready; see $logs"
    sleep 0.2
  done
}

ping_judge() { on "$1" curl -sf "$CODE_JUDGE_URL/ping"; }

judge_workers() { on head curl -s "$CODE_JUDGE_URL/metrics" | awk '$1 == "code_judge_workers" { print $2 }'; }

both_work() { [[ $(judge_workers) == 2 ]]; }

host head
host worker
ip link add to-worker netns "${holder[head]}" type veth peer name to-head netns "${holder[worker]}"
for name in head worker; do
  on "$name" ip link set lo up
  device=$([[ $name == head ]] && echo to-worker || echo to-head)
  on "$name" ip address add "${address[$name]}/24" dev "$device"
  on "$name" ip link set "$device" up
done
say "two hosts: head ${address[head]}, worker ${address[worker]} (logs: $logs)"

# ---- the judge ---------------------------------------------------------------------------------------------------------
PASSWORD=$(head -c 24 /dev/urandom | base64 | tr -dc 'a-zA-Z0-9')
export REDIS_URI=redis://:$PASSWORD@head:6379 MAX_EXECUTION_TIME=2 MAX_WORKERS=8 CODE_JUDGE_URL=http://head:8088
echo "requirepass $PASSWORD" | on head redis-server - --bind 0.0.0.0 --port 6379 --save "" > "$logs/redis.log" 2>&1 &
RUN_WORKERS=0 on head "$PYTHON" -m uvicorn app.main:app --app-dir code-judge --host 0.0.0.0 --port 8088 > "$logs/api.log" 2>&1 &
for name in head worker; do
  # shellcheck disable=SC2016  # expanded on the host
  on "$name" setsid bash -c 'echo $$ > "$0/judge.pid" && exec "$PYTHON" code-judge/run_workers.py' "$logs/$name" \
    > "$logs/judge-$name.log" 2>&1 &
done
until_ready 60 "the judge's API" ping_judge worker
until_ready 60 "one of the judge's workers" both_work
say "judge: $(judge_workers) workers, one a host, over the Redis on head"

# kill_judge: SIGKILL for all judge processes of the host "worker", as if it had lost its power.
kill_judge() {
  pkill -KILL --session "$(< "$logs/worker/judge.pid")"
  say "killed the judge workers of host worker"
}

if [[ -n $only_judge ]]; then
  # A request for each program, without a client that tries again. The first answer from host worker makes the file.
  on worker "$PYTHON" - "$logs/answered" << 'PYTHON' &
import collections, concurrent.futures, json, os, pathlib, sys, urllib.request

program = "import socket, time; time.sleep(0.5); print(socket.gethostname())"
body = json.dumps({"type": "batch", "submissions": [{"type": "python", "solution": program}]}).encode()
url, headers = os.environ["CODE_JUDGE_URL"] + "/run/long-batch", {"Content-Type": "application/json"}

def run(_):
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=120) as reply:
        (result,) = json.load(reply)["results"]
    host = result["stdout"].strip() if result["success"] else "none"
    if host == "worker":
        pathlib.Path(sys.argv[1]).touch()
    return host

with concurrent.futures.ThreadPoolExecutor(64) as pool:
    ran = collections.Counter(pool.map(run, range(64)))
print(f"{ran.total()} programs: {ran['head']} ran on head, {ran['worker']} on worker, {ran['none']} lost")
sys.exit(ran["none"] != 0)
PYTHON
  programs=$!
  until_ready 60 "an answer from host worker" test -e "$logs/answered"
  kill_judge
  wait "$programs" || die "programs were lost; see $logs"
  exit
fi

# ---- Ray and the training ----------------------------------------------------------------------------------------------
# Without GPUs: a logical one a host, by which VeRL places its ranks.
# Where a token lies in its home directory, Ray's head asks every other node for it.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$PASSWORD
ray=("$PYTHON" -m ray.scripts.scripts start --num-gpus 1 --num-cpus 16 --disable-usage-stats)
on head "${ray[@]}" --head --port 6380 --dashboard-host 0.0.0.0 > "$logs/ray-head.log" 2>&1 || die "Ray did not start; see $logs/ray-head.log"
on worker "${ray[@]}" --address head:6380 > "$logs/ray-worker.log" 2>&1 || die "Ray did not start; see $logs/ray-worker.log"
say "Ray: head on head:6380, worker joined"

start=$("$PYTHON" -c 'from cleaner_lab.nano.shipped import FOLDER; print(FOLDER)')
export RAY_ADDRESS=head:6380 VERL_FILE_LOGGER_PATH=$logs/metrics.jsonl
submit=()
if [[ -n $job ]]; then
  submit=("$PYTHON" -m ray.scripts.scripts job submit --address http://head:8265 --working-dir . --runtime-env-json
    '{"env_vars": {"CODE_JUDGE_URL": "'"$CODE_JUDGE_URL"'", "VERL_FILE_LOGGER_PATH": "'"$VERL_FILE_LOGGER_PATH"'"},
      "excludes": ["outputs", "dataset", ".venv", ".git"]}' --)
fi
# Half of a step's trajectories for each rank.
on head ${submit[@]+"${submit[@]}"} "$PYTHON" -m verl_cleaner.main_ppo --config-name quickstart hydra.run.dir="$logs/hydra" \
  trainer.nnodes=2 actor_rollout_ref.rollout.agent.num_workers=2 \
  actor_rollout_ref.model.path="$start/model" actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=64 \
  data.train_files="$start/data/train.parquet" data.val_files="$start/data/val.parquet" \
  +actor_rollout_ref.rollout.multi_turn.enable_tool_rollback=True trainer.logger=[file] \
  trainer.total_training_steps="$steps" trainer.default_local_dir="$logs/checkpoints" trainer.save_freq=-1 \
  trainer.test_freq=-1 trainer.val_before_train=False trainer.validate_with_rollback=False \
  ${settings[@]+"${settings[@]}"} > "$logs/train.log" 2>&1 &
training=$!
say "training: $steps steps, two ranks, agent loops on both hosts; the start takes a minute or more"
until [[ -s $VERL_FILE_LOGGER_PATH ]]; do
  kill -0 "$training" 2> /dev/null || die "the training ended before its first step; see $logs/train.log"
  sleep 0.5
done
kill_judge
wait "$training" || die "the training failed; see $logs/train.log"
"$PYTHON" - "$logs" "$steps" << 'PYTHON'
import collections, json, pathlib, re, sys

logs, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rows = [json.loads(line)["data"] for line in (logs / "metrics.jsonl").read_text().splitlines()]
for number, row in enumerate(rows, 1):
    print(
        f"step {number}: {row['grpo/total_samples']:.0f} trajectories, {row['infrastructure/lost_trajectories']:.0f} lost, "
        f"{row['rollback/global_triggered']:.0f} failing turns, {row['rollback/global_recovered']:.0f} repaired"
    )
lost = sum(row["infrastructure/lost_trajectories"] for row in rows)
asked = collections.Counter(re.findall(r'(10\.77\.0\.[12]):\d+ - "POST', (logs / "api.log").read_text()))
print(f"requests to the judge: {asked['10.77.0.1']} from agent loops on head, {asked['10.77.0.2']} from worker's")
sys.exit(lost != 0 or len(rows) != steps or len(asked) != 2)
PYTHON
say "$(judge_workers) judge worker left; nothing was lost"
