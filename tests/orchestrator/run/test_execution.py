"""What a trial's actor is given of the driver's environment."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.execution import class_cache

from orchestrator.run.execution import without_credentials

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")


def test_no_credentials_in_runtime_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        monkeypatch.setenv(key, "canary")
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(
        class_cache.ray, "remote", lambda **options: given.append(options) or (lambda cls: cls)
    )
    class_cache._ActorClassCache().get(object)  # what Tune does by itself
    with without_credentials():
        class_cache._ActorClassCache().get(object)
    class_cache._ActorClassCache().get(object)
    assert ["canary" in str(options["runtime_env"]) for options in given] == [True, False, True]
