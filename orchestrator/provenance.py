"""What a result was made with: commit, packages, hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "ray",
    "optuna",
    "mlflow",
    "safetensors",
    "pyarrow",
)


SUBMISSION = "SELMIX_SUBMISSION"
"""Variable of a submitted driver: a JSON object of what it was submitted with."""


def submission() -> dict[str, Any]:
    """``submission_id, job_server, package`` (its digest), ``package_bytes, git`` of a submitted driver; else {}."""
    told = json.loads(os.environ.get(SUBMISSION) or "{}")
    return dict(told) if isinstance(told, dict) else {}


def environment(threads: int) -> dict[str, Any]:
    """Git commit and whether dirty, package versions, hardware, and torch threads of a trial."""
    return {
        "git": submission().get("git") or git_state(),
        "package": submission().get("package"),
        "packages": {name: _version(name) for name in ("selmix", *PACKAGES)},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": _gpus()},
        "torch_threads": threads,
    }


def stack(environment: dict[str, Any]) -> dict[str, Any]:
    """The part of it that decides bits: on an equal stack everything must be equal."""
    packages = environment.get("packages", {})
    return {
        "python": environment.get("python"),
        **{name: packages.get(name) for name in ("torch", "numpy", "scipy", "scikit-learn")},
        "cpu": environment.get("hardware", {}).get("cpu"),
        "gpu": environment.get("hardware", {}).get("gpu"),
        "torch_threads": environment.get("torch_threads"),
    }


def git_state() -> dict[str, Any]:
    """``commit`` and ``dirty`` of the working folder's checkout, or of this package's; None where there is none."""
    for folder in (Path.cwd(), Path(__file__).resolve().parent):
        commit = _git(folder, "rev-parse", "HEAD")
        if commit is not None:
            return {
                "commit": commit,
                "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
            }
    return {"commit": None, "dirty": None}


def _git(folder: Path, *arguments: str) -> str | None:
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
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
