"""deploy/slurm.sh as it runs: stand-ins for Slurm, Ray and selmix on the PATH write down what they are asked."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ROOT

STAND_INS = {
    "scontrol": 'echo "scontrol $*" >> "$ASKED"\n[ "$1" = show ] && printf "one\\ntwo\\n"\nexit 0',
    "srun": 'echo "srun $*" >> "$ASKED"\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
    "hostname": 'echo "fe80::1 10.0.0.7"',
    "ray": 'echo "ray $* $$" >> "$ASKED"\nexec sleep 300',
    "selmix": """\
echo "selmix $*" >> "$ASKED"
[ "$1" = doctor ] && { sleep "${DOCTOR_SECONDS:-0}"; exit "${DOCTOR:-0}"; }
trap 'echo drained >> "$ASKED"; sleep 0.3; exit 143' TERM
[ "$LAUNCH" = long ] || exit "$LAUNCH"
while :; do sleep 0.05; done""",
}


class Job:
    """One run of the script; ``asked`` is what the stand-ins wrote down."""

    def __init__(self, folder: Path, **variables: str) -> None:
        for name, body in STAND_INS.items():
            (folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / name).chmod(0o755)
        self._asked = folder / "asked"
        self._asked.touch()
        environment = {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "ASKED": str(self._asked), "SLURM_JOB_ID": "123",
            "SLURM_JOB_NODELIST": "nodes[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4",
            "SLURM_GPUS_ON_NODE": "1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", ROOT / "deploy" / "slurm.sh", "sweep.yaml", "search.num_trials=3", "--runs", "/shared"],
            env=environment | variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def asked(self) -> str:
        return self._asked.read_text()

    def until(self, holds: Callable[[str], bool]) -> None:
        end = time.monotonic() + 120
        while not holds(self.asked):
            assert time.monotonic() < end, self.asked
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said

    def ray_is_gone(self) -> bool:
        pids = [int(line.rpartition(" ")[2]) for line in self.asked.splitlines() if line.startswith("ray ")]
        assert len(pids) == 2
        return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def launched(asked: str) -> bool:
    return "selmix launch" in asked


def both_rays(asked: str) -> bool:
    return asked.count("ray start") >= 4  # each once by srun and once itself


def test_what_is_started(tmp_path: Path) -> None:
    job = Job(tmp_path, LAUNCH="0", DOCTOR_SECONDS="1")
    code, _ = job.end()
    assert code == 0
    asked = job.asked
    assert "srun --overlap --nodes=1 --ntasks=1 --nodelist=one ray start --head --block" in asked
    assert "--node-ip-address=10.0.0.7 --port=20123" in asked
    assert (
        "srun --overlap --nodes=1 --ntasks=1 --exclude=one ray start --block --address=10.0.0.7:20123"
        in asked
    )
    assert "selmix doctor --nodes 2 --wait 180" in asked
    assert "selmix launch sweep.yaml search.num_trials=3 --runs /shared" in asked
    assert "requeue" not in asked
    assert job.ray_is_gone()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_drains_the_driver_and_queues_the_job_again(tmp_path: Path, number: signal.Signals) -> None:
    job = Job(tmp_path, LAUNCH="long")
    job.until(lambda asked: launched(asked) and both_rays(asked))
    time.sleep(0.2)  # until the stand-in listens
    job.process.send_signal(number)
    code, said = job.end()
    assert code == 143
    assert "drained" in job.asked
    assert job.asked.splitlines()[-1] == "scontrol requeue 123"
    assert "queued again as job 123" in said
    assert job.ray_is_gone()


def test_a_signal_before_the_driver(tmp_path: Path) -> None:
    job = Job(tmp_path, LAUNCH="long", DOCTOR_SECONDS="2")
    job.until(lambda asked: "selmix doctor" in asked and both_rays(asked))
    job.process.send_signal(signal.SIGUSR1)
    assert job.end()[0] == 143
    assert "scontrol requeue 123" in job.asked
    assert not launched(job.asked)


@pytest.mark.parametrize(
    ("variables", "code"),
    [({"LAUNCH": "5"}, 5), ({"LAUNCH": "0", "DOCTOR": "4"}, 4), ({"LAUNCH": "1"}, 1), ({"LAUNCH": "3"}, 3)],
)
def test_what_failed_is_not_queued_again(tmp_path: Path, variables: dict[str, str], code: int) -> None:
    job = Job(tmp_path, **variables)
    assert job.end()[0] == code
    assert "requeue" not in job.asked


def test_not_for_ever(tmp_path: Path) -> None:
    job = Job(tmp_path, LAUNCH="143", SLURM_RESTART_COUNT="50")
    code, said = job.end()
    assert code == 143
    assert "requeue" not in job.asked
    assert "not finished after 50 restarts" in said


def test_no_file(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", ROOT / "deploy" / "slurm.sh"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch")
