"""Our headers, parsed once for all native code that a run of the tests builds: half of what a small build costs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from graphllm.compiler.cache import cache_folder
from graphllm.compiler.native import build
from graphllm.compiler.native.isa import Isa, isa_flags
from graphllm.compiler.native.toolchain import find_compiler


def precompiled(flags: Sequence[str], isa: Isa) -> tuple[str, ...]:
    """The flags, and what makes GCC begin with all headers as it has read them before; other compilers go without."""
    compiler = find_compiler()
    if "++" not in compiler.version.split()[0]:  # what clang++ says of itself begins with another word
        return tuple(flags)
    # The compiler takes what fits of all that lie in a folder, and does not look at every flag: a folder for each set.
    folder = cache_folder() / "headers" / hashlib.sha256(" ".join(flags).encode()).hexdigest()[:16]
    header, made = folder / "every.h", folder / "every.h.gch"
    if not (made / isa).exists():
        made.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # another process may be making the same
            text, part = Path(scratch) / header.name, Path(scratch) / isa
            lines = [f'#include "{path.name}"\n' for path in sorted(build.HEADERS.glob("*.h"))]
            text.write_text("#include <algorithm>\n" + "".join(lines), encoding="utf-8")
            arguments = [*flags, *isa_flags(isa), "-I", str(build.HEADERS), "-x", "c++-header", str(text)]
            subprocess.run([*compiler.command, *arguments, "-o", str(part)], check=True, timeout=120)
            os.replace(text, header)
            os.replace(part, made / isa)
    return (*flags, "-include", str(header))
