"""Writes an emitted program: a folder that appears under its name complete, or not at all.

    model.cpp  model.h  main.cpp  Makefile  README.md  kernels/  runtime/  weights.bin  tokenizer.bin

It is written under an unpredictable name beside the final one and renamed. Weights are streamed, one at a time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

import graphllm.codegen.standalone as standalone
from graphllm._version import __version__
from graphllm.codegen.cpu.generate import generate
from graphllm.codegen.cpu.order import weight_names
from graphllm.compiler.emit.model_header import model_header, steps_for_one, weight_bytes
from graphllm.compiler.emit.tokenizer_file import EmittedTokenizer
from graphllm.compiler.native.build import HEADERS
from graphllm.errors import PlanError
from graphllm.ir.core import Module
from graphllm.ir.lifetime import aligned
from graphllm.plan.atomic_file import replacing
from graphllm.plan.place import refusal, shown, size_text
from graphllm.plan.plan_file import PlanFile

SOURCES: Final = Path(standalone.__file__).parent
_SLICE: Final = 16 << 20
_KEEP: Final = "weights, tokenizer and code"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Emission:
    """What a program is made of.

    Attributes:
        plan: holds the weights.
        module: lowered for cpu, one slot, checked to be the plan's.
        stop_ids: that end a text.
        allowed: ids below it may be sampled.
        tokenizer: None where the plan has none.
    """

    plan: PlanFile
    module: Module
    stop_ids: Collection[int]
    allowed: int
    tokenizer: EmittedTokenizer | None

    def write(self, folder: Path, progress: Progress = lambda what, done, total: None) -> None:
        """Write the folder. Raises PlanError where it holds something already, or cannot be written."""
        refuse_folder(folder)
        final = Path(os.path.realpath(folder))
        made = final.parent / f".graphllm-{os.urandom(8).hex()}.tmp"
        try:
            try:
                made.mkdir()
                self._fill(made, progress)
                os.replace(made, final)
            except OSError as error:
                raise PlanError(f"{shown(folder)}: cannot be written; {refusal(error)}") from None
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def _fill(self, folder: Path, progress: Progress) -> None:
        module = steps_for_one(self.module)
        header = model_header(
            module, stop_ids=self.stop_ids, allowed=self.allowed, has_tokenizer=self.tokenizer is not None
        )
        texts = {"model.cpp": generate(module), "model.h": header, "README.md": self._readme(module)}
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode("utf-8"))
        for name in ("main.cpp", "Makefile"):
            (folder / name).write_bytes((SOURCES / name).read_bytes())
        for place, headers in (("kernels", HEADERS), ("runtime", SOURCES)):
            (folder / place).mkdir()
            for path in sorted(headers.glob("*.h")):
                (folder / place / path.name).write_bytes(path.read_bytes())
        if self.tokenizer is not None:
            (folder / "tokenizer.bin").write_bytes(self.tokenizer.content)
        self._weights(module, folder / "weights.bin", progress)

    def _weights(self, module: Module, path: Path, progress: Progress) -> None:
        total, done = weight_bytes(module), 0
        with replacing(path, total) as file:
            for name in weight_names(module):
                content = self.plan.weight(name).reshape(-1).view("u1").data
                for begin in range(0, len(content), _SLICE):
                    file.write(content[begin : begin + _SLICE])
                    progress("writing", done := done + min(_SLICE, len(content) - begin), total)
                file.write(bytes(aligned(len(content)) - len(content)))

    def _readme(self, module: Module) -> str:
        state = next(iter(module.states.values()))
        encodes = self.tokenizer is not None and not self.tokenizer.why_not
        return Template((SOURCES / "README.md").read_text(encoding="utf-8")).substitute(
            title="A language model",
            version=__version__,
            example='-p "Once upon a time"' if encodes else '--ids "1 2 3"',
            weights=size_text(weight_bytes(module)),
            tokenizer_row="| `tokenizer.bin` | its tokenizer |\n" if self.tokenizer is not None else "",
            context=state.type.shape[2],
            text=self._about_text(),
        )

    def _about_text(self) -> str:
        if self.tokenizer is None:
            return "The plan has no tokenizer: prompts are ids (`--ids`), and so are answers."
        if self.tokenizer.why_not:
            why = "".join(c if c.isprintable() and c not in "`<>" else "?" for c in self.tokenizer.why_not)
            return f"Prompts are ids (`--ids`), and so are answers, because text cannot be encoded here. {why}."
        return (
            "Prompts are encoded as the plan's tokenizer encodes them: normal form, merges, special tokens.\n"
            "`./generate --encode -p TEXT` prints the ids."
        )


def refuse_folder(folder: Path) -> None:
    """Raise PlanError unless a program can be written there: a folder that is not there, or is empty."""
    where = shown(folder)
    try:
        if folder.is_dir():
            if any(folder.iterdir()):
                raise PlanError(f"{where}: not empty; expected a new folder for {_KEEP}")
            return
        if folder.exists() or folder.is_symlink():
            raise PlanError(f"{where}: a file; expected a new folder for {_KEEP}")
        parent = Path(os.path.realpath(folder)).parent
        if not parent.is_dir():
            raise PlanError(f"{where}: cannot be written; no such folder: {shown(parent)}")
    except (OSError, ValueError) as error:
        raise PlanError(f"{where}: cannot be written; {refusal(error)}") from None
