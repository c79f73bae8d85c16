"""Builds generated C++ into a shared library, once, and finds it again.

The library lies in a private folder under a name made of two hashes: of everything that went into it (our text, our
headers, flags, compiler, CPU) and of its own bytes. So it is written by one rename, two processes that build the same
end with the same file, and one that was damaged or swapped is noticed before it is loaded.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import graphllm.codegen.kernels as kernels
from graphllm.compiler.cache import cache_folder, private_folder
from graphllm.compiler.native.isa import Isa, chosen_isa, cpu_features, isa_flags
from graphllm.compiler.native.toolchain import Compiler, find_compiler, run_compiler
from graphllm.errors import NativeError
from graphllm.plan.place import refusal

HEADERS: Final = Path(kernels.__file__).parent / "cpu"
FLAGS: Final = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=fast", "-fno-math-errno"),  # and no more of -ffast-math: NaN of a broken model must show
)
BUILD_LIMIT: Final = 300.0  # seconds
_KEY, _DIGEST = 32, 32  # hexadecimal digits of each in a name

Say = Callable[[str], None]


def built(text: str, say: Say = lambda line: None, *, isa: Isa | None = None) -> Path:
    """The library of a generated text, built if it is not there.

    Args:
        text: one translation unit that includes our headers.
        say: is told in one line when something is built.
        isa: instructions it may use; $GRAPHLLM_ISA, or all that this CPU has, where none is given.

    Raises:
        NativeError: no compiler, or one that fails or hangs.
        GraphLLMError: the cache folder cannot be used.
    """
    compiler = find_compiler()
    flags = (*FLAGS, *isa_flags(isa or chosen_isa()))
    key = _key(text, compiler, flags)
    folder = native_folder()
    for library in sorted(folder.glob(f"{key}.*.so")):
        if _intact(library):
            return library
        with suppress(OSError):  # damaged or swapped; another process may have seen it too
            library.unlink()
    say(f"building native code with {compiler.name}, once")
    return _build(text, compiler, flags, folder, key)


def native_folder() -> Path:
    """Where libraries are kept, within the cache of plans. Raises GraphLLMError where others may write to it."""
    return private_folder(cache_folder() / "native")


def built_libraries() -> list[Path]:
    """Every library in the cache."""
    return sorted((cache_folder() / "native").glob("*.so"))


def _key(text: str, compiler: Compiler, flags: tuple[str, ...]) -> str:
    parts = [text, compiler.version, compiler.identity, " ".join((*compiler.command, *flags)), cpu_features()]
    parts += [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in sorted(HEADERS.glob("*.h"))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:_KEY]


def _intact(library: Path) -> bool:
    try:
        digest = hashlib.sha256(library.read_bytes()).hexdigest()[:_DIGEST]
    except OSError:
        return False
    return library.name.split(".")[1] == digest


def _build(text: str, compiler: Compiler, flags: tuple[str, ...], folder: Path, key: str) -> Path:
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            source, out = Path(scratch) / "plan.cpp", Path(scratch) / "plan.so"
            source.write_text(text, encoding="utf-8")
            arguments = [*flags, "-I", str(HEADERS), str(source), "-o", str(out)]
            run_compiler(compiler.command, arguments, BUILD_LIMIT, "building native code")
            if not out.is_file():
                raise NativeError(f"C++ compiler {compiler.name}: says it is done and has written nothing")
            digest = hashlib.sha256(out.read_bytes()).hexdigest()[:_DIGEST]
            library = folder / f"{key}.{digest}.so"
            os.replace(out, library)
            return library
    except OSError as error:
        raise NativeError(f"cache {folder}: cannot be written; {refusal(error)}; set GRAPHLLM_CACHE") from None
