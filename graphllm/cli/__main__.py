"""``python -m graphllm.cli``: the same as ``graphllm``."""

from __future__ import annotations

import sys

from graphllm.cli import main

sys.exit(main())
