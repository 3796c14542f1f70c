"""Provenance of a result: commit, packages, hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from orchestrator.documents import from_document

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "ray", "optuna", "mlflow", "safetensors", "pyarrow",
)  # fmt: skip

SUBMISSION = "SELMIX_SUBMISSION"
"""Environment variable of a submitted driver: its :class:`Submission` as a JSON object."""


@dataclass(frozen=True)
class GitState:
    """State of a checkout.

    Attributes:
        commit: checked out; None where there is no checkout.
        dirty: True if a file of it was changed since; None likewise.
    """

    commit: str | None = None
    dirty: bool | None = None


@dataclass(frozen=True)
class Hardware:
    """Hardware of a machine.

    Attributes:
        cpu: name of the processor.
        cores: logical ones.
        gpu: names of the GPUs that torch sees.
    """

    cpu: str | None = None
    cores: int | None = None
    gpu: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Environment:
    """Code, packages and machine of a result: they decide its bits, or may explain them.

    Attributes:
        git: state of the checkout that the code is from.
        package: digest of the code that a cluster was sent; None: it ran as installed.
        packages: name -> version; None where it is not installed.
        python: version of the interpreter.
        platform: system that it runs on.
        hardware: of the machine.
        torch_threads: of a trial; one and two give different bits.
        method: number of the method's arithmetic, raised whenever bits of a fit or of a confidence bound change.
    """

    git: GitState = GitState()
    package: str | None = None
    packages: dict[str, str | None] = field(default_factory=dict)
    python: str | None = None
    platform: str | None = None
    hardware: Hardware = Hardware()
    torch_threads: int | None = None
    method: int = 1

    def stack(self) -> dict[str, object]:
        """The part that decides bits: on an equal stack everything must be equal."""
        return {
            "method": self.method,
            "python": self.python,
            **{name: self.packages.get(name) for name in ("torch", "numpy", "scipy", "scikit-learn")},
            "cpu": self.hardware.cpu,
            "gpu": self.hardware.gpu,
            "torch_threads": self.torch_threads,
        }


@dataclass(frozen=True)
class Submission:
    """Code and job of a submitted driver, as it receives them and as its sweep records them.

    Attributes:
        package: digest of its code.
        package_bytes: size of its code.
        submission_id: of its job; None where it was not submitted as one.
        job_server: that took the job; None likewise.
        git: state of the checkout that it was submitted from.
    """

    package: str | None = None
    package_bytes: int | None = None
    submission_id: str | None = None
    job_server: str | None = None
    git: GitState | None = None


def submission() -> Submission | None:
    """The submission of this process; None where it was not submitted."""
    given = json.loads(os.environ.get(SUBMISSION) or "null")
    return from_document(Submission, given) if isinstance(given, dict) and given else None


def environment(threads: int) -> Environment:
    """Environment of this process.

    Args:
        threads: of torch in a trial.
    """
    from selmix import METHOD

    submitted = submission()
    # A node of a cluster has the code without its checkout: the machine that submitted it knows the commit.
    return Environment(
        git=(submitted and submitted.git) or git_state(),
        package=submitted.package if submitted else None,
        packages={name: _version(name) for name in ("selmix", *PACKAGES)},
        python=platform.python_version(),
        platform=platform.platform(),
        hardware=Hardware(_cpu(), os.cpu_count(), _gpus()),
        torch_threads=threads,
        method=METHOD,
    )


def git_state() -> GitState:
    """State of the working folder's checkout, or of this package's."""
    for folder in (Path.cwd(), Path(__file__).resolve().parent):
        commit = _git(folder, "rev-parse", "HEAD")
        if commit is not None:
            # Runs, results and data lie in a checkout as untracked files, and change no code.
            return GitState(commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))
    return GitState()


def _git(folder: Path, *arguments: str) -> str | None:
    # Without git, or on a file system that hangs, a sweep runs all the same: the commit stays unknown.
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    # On Linux platform.processor() is empty, or names the architecture only.
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    # Records import this module, and are read without torch.
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
