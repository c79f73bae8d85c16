"""``python -m graphllm``: the same as ``graphllm``, where the command is not on the path."""

from __future__ import annotations

import sys

from graphllm.cli import main

sys.exit(main())
