"""Builds generated C++ into a shared library, once, and finds it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import graphllm.codegen.kernels as kernels
from graphllm.codegen.cpu.parts import PARTS, in_parts
from graphllm.compiler.kept import LIBRARY, kept
from graphllm.compiler.native.isa import Isa, chosen_isa, cpu_features, isa_flags
from graphllm.compiler.native.toolchain import Compiler, find_compiler, run_compiler, run_compilers
from graphllm.errors import NativeError
from graphllm.runtime.cores import physical_cores

HEADERS: Final = Path(kernels.__file__).parent / "cpu"
FLAGS: Final = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=fast", "-fno-math-errno"),  # and no more of -ffast-math: NaN of a broken model must show
    "-falign-loops=64",  # where the products' loops happen to begin would decide on a tenth of their speed
)
BUILD_LIMIT: Final = 300.0  # seconds
_WHAT: Final = "building native code"

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

    def make(scratch: Path) -> Path:
        say(f"building native code with {compiler.name}, once")
        source, out = scratch / "plan.cpp", scratch / "plan.so"
        source.write_text(text, encoding="utf-8")
        arguments = [*flags, "-I", str(HEADERS), str(source)]
        if in_parts(text) and physical_cores() > 1:
            arguments = [*flags, *_objects(scratch, compiler, arguments)]
        compile_to(out, compiler, arguments, _WHAT)
        return out

    return kept([text, *identity(compiler, flags), *texts_of(HEADERS.glob("*.h"))], LIBRARY, make)


def _objects(scratch: Path, compiler: Compiler, arguments: Iterable[str]) -> list[str]:
    """The parts of a text, compiled side by side: each reads the headers, and does its share of the rest."""
    own = [argument for argument in arguments if argument != "-shared"]
    objects = [str(scratch / f"part{i}.o") for i in range(PARTS)]
    calls = [[*own, "-c", f"-DGRAPHLLM_PART={i}", "-o", out] for i, out in enumerate(objects)]
    run_compilers(compiler.command, calls, BUILD_LIMIT, _WHAT)
    return objects


def compile_to(out: Path, compiler: Compiler, arguments: Iterable[str], what: str) -> None:
    """Run the compiler. Raises NativeError where it fails, hangs, or leaves nothing at ``out``."""
    run_compiler(compiler.command, [*arguments, "-o", str(out)], BUILD_LIMIT, what)
    if not out.is_file():
        raise NativeError(f"C++ compiler {compiler.name}: says it is done and has written nothing")


def identity(compiler: Compiler, flags: Iterable[str]) -> tuple[str, ...]:
    """What besides texts decides what is built."""
    return (compiler.version, compiler.identity, " ".join((*compiler.command, *flags)), cpu_features())


def texts_of(paths: Iterable[Path]) -> list[str]:
    """Files by name and text, in the order of their names."""
    return [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in sorted(paths)]
