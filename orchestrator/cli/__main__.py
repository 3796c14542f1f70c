"""``python -m orchestrator.cli``: command line of an installation without scripts."""

from __future__ import annotations

import sys

from orchestrator.cli.main import main

sys.exit(main())
