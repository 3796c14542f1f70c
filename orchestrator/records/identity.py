"""What makes a configuration and a sweep the same one again."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any


def config_hash(objective: str, acting: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits over the objective and the settings that act under it."""
    text = json.dumps({"objective": objective, **acting}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def new_sweep_id() -> str:
    """Sixteen random hexadecimal digits; made once, at the first launch."""
    return secrets.token_hex(8)
