"""The `.gllm` container: a safetensors file that is written atomically, mapped on reading, and checked by digests.

`write_container` streams one tensor at a time; `Container.open` reads and verifies the header alone, so that opening
does not depend on the size of the data. Arrays are read-only views of one map of the file. While a container is open
its file must not be shortened in place (replacing it, as we do, is safe): the system answers a read past the end of
a mapped file with SIGBUS, which no program can turn into an error message.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import PlanError
from graphllm.plan.atomic_file import replacing
from graphllm.plan.header import (
    MAX_HEADER,
    PLAN_VERSION,
    Header,
    PlanDType,
    TensorSpec,
    check_specs,
    header_length,
    lay_out,
    parse_header,
    render_header,
)
from graphllm.plan.place import refusal, shown

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["PLAN_VERSION", "Container", "PlanDType", "TensorSpec", "numpy_dtype", "write_container"]

_SLICE = 16 << 20  # between two progress reports
_HASH_TOGETHER = 8 << 20  # below this, threads cost more than they hash


def numpy_dtype(dtype: PlanDType) -> np.dtype[Any]:
    """The NumPy dtype of a plan's dtype, little-endian as in the file."""
    if dtype == "bf16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype({"f32": "<f4", "f16": "<f2", "i8": "i1", "i32": "<i4", "u8": "u1"}[dtype])


def write_container(
    path: str | os.PathLike[str],
    specs: Sequence[TensorSpec],
    read: Callable[[str], NDArray[Any]],
    metadata: Mapping[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a container to `path`, atomically; the same input gives the same bytes.

    `read(name)` gives a tensor's array, of the dtype and shape of its spec, and must not change it later; it is asked
    once for each, in the order of the file. The arrays alive at a time are never larger, together, than the largest
    tensor (one that is not contiguous is copied, and counts twice). `progress(done, total)` counts bytes of data.
    PlanError when the disk is full or the place cannot be written; errors of `read` pass through.
    """
    from concurrent.futures import ThreadPoolExecutor

    where = shown(path)
    check_specs(specs, metadata, where)
    ordered = lay_out(specs)
    head = render_header(ordered, ["0" * 64] * len(ordered), metadata)
    if len(head) - 8 > MAX_HEADER:
        raise PlanError(f"{where}: too many tensors; their header would be {len(head)} bytes, at most {MAX_HEADER}")
    total = sum(spec.nbytes for spec in ordered)
    largest = max((spec.nbytes for spec in ordered), default=0)
    done = 0
    digests: list[Future[str]] = []
    hashing: deque[tuple[Future[str], int]] = deque()
    # Hashing and writing both release the GIL: a few tensors are hashed at once, behind the writer.
    with replacing(path, len(head) + total) as file, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as hashers:
        file.write(head)
        for spec in ordered:
            while hashing and sum(size for _, size in hashing) + spec.nbytes > largest:
                hashing.popleft()[0].result()
            content = _content(read(spec.name), spec, where)
            digests.append(hashers.submit(_blake3, content))
            hashing.append((digests[-1], spec.nbytes))
            for begin in range(0, spec.nbytes, _SLICE):
                with content[begin : begin + _SLICE] as part:
                    file.write(part)
                    done += len(part)
                if progress:
                    progress(done, total)
            del content  # the hasher has its own hold; ours must not outlive the next reading
        file.rewrite_start(render_header(ordered, [digest.result() for digest in digests], metadata))


class Container:
    """An open container. Made by `Container.open`; a context manager."""

    def __init__(self, path: Path, mapped: mmap.mmap, header: Header) -> None:
        names = [spec.name for spec in header.specs]
        self.path = path
        self.specs: Mapping[str, TensorSpec] = MappingProxyType(dict(zip(names, header.specs, strict=True)))
        self.metadata: Mapping[str, str] = MappingProxyType(dict(header.metadata))
        self._mapped: mmap.mmap | None = mapped
        self._begins = dict(zip(names, header.begins, strict=True))
        self._digests = dict(zip(names, header.digests, strict=True))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Container:
        """Map a file and check its header. The data is checked by `verify`, when asked. PlanError if it is no plan."""
        where = shown(path)
        fd = _open_regular(path, where)
        try:
            size = os.fstat(fd).st_size
            first = os.read(fd, 8)
            raw = first + _read(fd, header_length(first, size, where))
            header = parse_header(raw, size, where)
            mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            _ask_for_large_pages(mapped)
        except (OSError, ValueError) as error:
            # ValueError: the file shrank between the two looks at its size.
            raise PlanError(f"{where}: cannot be read; {refusal(error)}") from None
        finally:
            os.close(fd)
        return cls(Path(path), mapped, header)

    def array(self, name: str) -> NDArray[Any]:
        """A tensor as a read-only view of the file; nothing is read until it is used. KeyError if there is none."""
        spec = self.specs[name]
        return np.ndarray(spec.shape, numpy_dtype(spec.dtype), buffer=self.content(name))

    def content(self, name: str) -> memoryview:
        """A tensor's bytes, a view as well."""
        if self._mapped is None:
            raise ValueError("the container is closed")
        begin = self._begins[name]
        return memoryview(self._mapped)[begin : begin + self.specs[name].nbytes]

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Hash tensors (all, or those named), reading them whole. PlanError names the first damaged one."""
        chosen = list(self.specs) if names is None else list(names)
        contents = map(self.content, chosen)
        if sum(self.specs[name].nbytes for name in chosen) < _HASH_TOGETHER:
            self._compare(chosen, map(_blake3, contents))
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as hashers:
            self._compare(chosen, hashers.map(_blake3, contents))

    def close(self) -> None:
        """Let go of the file. Arrays still in use keep their map until the last of them is gone."""
        # Dropped and never closed: NumPy's arrays keep the map itself alive but no export of its buffer, so closing
        # it would succeed, and leave them pointing at nothing.
        self._mapped = None

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _compare(self, names: Sequence[str], digests: Iterable[str]) -> None:
        for name, got in zip(names, digests, strict=True):
            if got != self._digests[name]:
                raise PlanError(
                    f"{shown(self.path)}: tensor {name!r} is damaged; expected blake3 {self._digests[name][:12]}, "
                    f"got {got[:12]}; copy or compile the file again"
                )


def _ask_for_large_pages(mapped: mmap.mmap) -> None:
    # Reading weights is what a decoder's time goes to, and through small pages memory is slower. Only a wish: of what a
    # file's pages may be, the file system decides.
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            mapped.madvise(mmap.MADV_HUGEPAGE)


def _content(array: NDArray[Any], spec: TensorSpec, where: str) -> memoryview:
    if array.shape != spec.shape or array.dtype != numpy_dtype(spec.dtype):
        got = f"{array.dtype}[{','.join(map(str, array.shape))}]"
        raise PlanError(f"{where}: tensor {spec.name!r} is not what was announced; expected {spec}, got {got}")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _blake3(content: memoryview) -> str:
    from blake3 import blake3

    return blake3(content).hexdigest()


def _open_regular(path: str | os.PathLike[str], where: str) -> int:
    # Looked at before it is opened, because opening some devices does something; looked at again after, because
    # it may have been exchanged, and without blocking, because a FIFO would wait for a writer.
    try:
        _check_regular(os.stat(path).st_mode, where)
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise PlanError(f"{where}: cannot be opened; {refusal(error)}") from None
    try:
        _check_regular(os.fstat(fd).st_mode, where)
    except PlanError:
        os.close(fd)
        raise
    return fd


def _check_regular(mode: int, where: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise PlanError(f"{where}: not a plan; expected a file, got {kind}")


def _read(fd: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := os.read(fd, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
