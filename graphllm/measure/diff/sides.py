"""What can be compared: ways of computing a model, other models, values that were kept.

interpreter            the meaning of the IR, in NumPy
numpy, cpu, …          a target's device, by the code it always runs
transformers           the Hugging Face folder as that library computes it
other.gllm, folder/    another plan or checkpoint, interpreted; other.gllm@cpu: on a device
dump/                  a folder that ``--dump`` wrote
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from graphllm.api import Link, cached_plan, chosen_options
from graphllm.api.source import source_of
from graphllm.compiler.backends import BACKENDS
from graphllm.compiler.link import Expand, check_weights, module_of
from graphllm.compiler.record import config_of
from graphllm.compiler.targets import DeviceName, target_of
from graphllm.errors import GraphLLMError
from graphllm.frontends.config import ModelConfig
from graphllm.ir.core import Module, Weight
from graphllm.measure.diff.dump import read_dump
from graphllm.measure.diff.in_transformers import in_transformers
from graphllm.measure.diff.interpreted import interpreted
from graphllm.measure.diff.on_device import kept, on_device
from graphllm.measure.diff.trace import Array, Kind, Trace
from graphllm.plan.plan_file import PlanFile, is_plan

INTERPRETER: Final = "interpreter"
TRANSFORMERS: Final = "transformers"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model: where it lies, its plan (of a checkpoint: compiled and kept), its portable IR and config."""

    path: Path
    file: PlanFile
    module: Module
    config: ModelConfig

    def read(self, weight: Weight) -> Array:
        """A stored weight."""
        return self.file.weight(weight.name)


@dataclass(frozen=True, slots=True)
class How:
    """What is run: token ids, the kind of function, and how devices are set."""

    ids: Sequence[int]
    kind: Kind = "score"
    threads: int = 0
    expand: Expand = "auto"
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True, slots=True)
class Side:
    """One way of computing: ``run(apart)`` gives its values, every operation by itself where that is asked.

    ``fused``: whether its kernels keep values to themselves, so that there is more to see apart.
    """

    name: str
    run: Callable[[bool], Trace]
    subject: Subject | None
    fused: bool = False


def open_subject(path: str | Path, **options: Any) -> Subject:
    """A plan or a checkpoint; ``options`` are those of ``compile`` and for checkpoints only.

    Raises PlanError, CheckpointError and the like, as ``load`` does.
    """
    source = source_of(path)
    if not is_plan(source):
        tokenizer = options.pop("tokenizer", None)
        names = ("context", "slots", "kv_dtype", "dtype", "quantize", "overrides", "target")
        values: list[Any] = [options.get(name) for name in names]
        values[0], values[1] = values[0] or 0, values[1] or 1
        plan = cached_plan(source, tokenizer, chosen_options(*values), "auto", None)
    elif any(options.values()):
        given = next(name for name, value in options.items() if value)
        raise GraphLLMError(f"{source}: a plan; {given} is for checkpoints, compile that with it")
    else:
        plan = source
    file = PlanFile.open(plan, verify="auto")
    module = module_of(file, "ir")
    check_weights(file, module)
    return Subject(source, file, module, config_of(file))


def side(word: str, subject: Subject, how: How) -> Side:
    """The side that a word of the command line means. Raises GraphLLMError for one that means none."""
    if word == INTERPRETER or word in get_args(DeviceName):
        return _engine(word, word, subject, how)
    if word == TRANSFORMERS:
        return Side(word, lambda apart: in_transformers(subject.path, how.ids), None)
    path, at, engine = word.rpartition("@")
    if at and (engine == INTERPRETER or engine in get_args(DeviceName)):
        return _engine(engine, f"{Path(path).name}@{engine}", open_subject(path), how)
    folder = Path(word)
    if folder.is_dir() and any(folder.glob("*.npy")) and not (folder / "config.json").exists():
        return Side(folder.name, lambda apart: read_dump(folder), None)
    if folder.exists() or word == "demo":
        return _engine(INTERPRETER, folder.name, open_subject(word), how)
    known = ", ".join((INTERPRETER, *get_args(DeviceName), TRANSFORMERS))
    raise GraphLLMError(f"diff: {word[:60]!r}; expected {known}, a plan, a checkpoint, or a folder of arrays")


def reference(subject: Subject, other: Side, how: How) -> Side:
    """The interpreter on the model; under the model's name where the other side is another model."""
    apart = other.subject is not None and other.subject is not subject
    return _engine(INTERPRETER, subject.path.name if apart else INTERPRETER, subject, how)


def _engine(engine: str, name: str, subject: Subject, how: How) -> Side:
    if engine == INTERPRETER:
        return Side(name, lambda apart: interpreted(name, subject.module, subject.read, how.ids, how.kind), subject)
    device: DeviceName = next(d for d in get_args(DeviceName) if d == engine)
    backend = BACKENDS[target_of(device)].target

    def run(apart: bool) -> Trace:
        module = kept(subject.module, backend, how.kind, apart=apart)
        link = Link(subject.file, 0, 0, None, how.expand, how.threads, None, how.say, 0, False)
        return on_device(name, module, link.device(module, device), subject.read, how.ids, how.kind)

    return Side(name, run, subject, fused=not backend.stepwise)
