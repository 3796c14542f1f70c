#!/bin/bash
# Question: how does a sweep run in an allocation whose time is shorter than the sweep? As one job that drains before
#           its limit and queues itself again until the sweep is finished.
# Cost: the allocation below, as often as it takes.
# Command: sbatch deploy/slurm.sh FILE [KEY=VALUE ...] --runs /shared/runs
# Edit: the #SBATCH lines, and what brings `selmix` and `ray` on the PATH of every node. The runs folder is on storage
#       that all nodes see. MLFLOW_TRACKING_URI and its credentials come with your environment; none belongs here.
#SBATCH --job-name=selmix
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=selmix-%j.log
set -uo pipefail

# source /shared/selmix/env/bin/activate

if [ $# -eq 0 ]; then
  echo "usage: sbatch deploy/slurm.sh FILE [KEY=VALUE ...] --runs /shared/runs" >&2
  exit 2
fi
most_restarts=${SELMIX_MOST_RESTARTS:-50}
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}

# One token for this job: whoever shares the network cannot run code on its nodes.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address \
  | tr ' ' '\n' | grep -v -e : -e '^127\.' | head -n 1)
if [ -z "$address" ]; then
  echo "selmix: $head must have an IPv4 address that the other nodes reach, hostname --ip-address tells none" >&2
  exit 4
fi
export RAY_ADDRESS="$address:$((20000 + SLURM_JOB_ID % 20000))"  # jobs that share a node do not share a port

ray_pids=()
end_ray() {
  trap - EXIT
  if [ ${#ray_pids[@]} -gt 0 ]; then
    kill "${ray_pids[@]}" 2>/dev/null
    wait "${ray_pids[@]}" 2>/dev/null
  fi
}
trap end_ray EXIT

driver=
told=
drain() { # also of signals that come before the driver is there
  told=1
  interrupted=1
  [ -n "$driver" ] && kill -TERM "$driver" 2>/dev/null
}
trap drain USR1 TERM

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --node-ip-address="$address" --port="${RAY_ADDRESS##*:}" --include-dashboard=false \
  --num-cpus="$cpus" --num-gpus="$gpus" &
ray_pids+=($!)
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
  srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
    ray start --block --address="$RAY_ADDRESS" --num-cpus="$cpus" --num-gpus="$gpus" &
  ray_pids+=($!)
fi

requeue_or_end() { # exit code of the driver
  case $1 in
    130 | 143)
      if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most_restarts" ]; then
        echo "selmix: not finished after $most_restarts restarts; sbatch it again to go on" >&2
        exit "$1"
      fi
      end_ray
      echo "selmix: drained before the time limit; queued again as job $SLURM_JOB_ID" >&2
      scontrol requeue "$SLURM_JOB_ID"
      exit "$1"
      ;;
    *) exit "$1" ;;
  esac
}

await() { # the exit code of a process, however often a signal interrupts the wait
  while :; do
    interrupted=
    wait "$1"
    code=$?
    [ -n "$interrupted" ] && kill -0 "$1" 2>/dev/null && continue
    [ -n "$interrupted" ] && { wait "$1"; last=$?; [ "$last" -ne 127 ] && code=$last; }
    return "$code"
  done
}

selmix doctor --nodes "$SLURM_JOB_NUM_NODES" --wait 180 &
doctor=$!
await "$doctor"
code=$?
[ -n "$told" ] && requeue_or_end 143
[ "$code" -ne 0 ] && exit "$code"

selmix launch "$@" &
driver=$!
[ -n "$told" ] && kill -TERM "$driver"
await "$driver"
requeue_or_end $?
