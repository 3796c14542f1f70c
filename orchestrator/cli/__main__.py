"""``python -m orchestrator.cli``: command line of an installation without scripts."""

from __future__ import annotations

from orchestrator.cli.main import command

command()
