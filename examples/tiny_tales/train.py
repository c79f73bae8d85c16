"""Trains the model: vocabulary, corpus, training, export. Stopped at any point, the same command goes on.

python -m examples.tiny_tales.train --out tiny_tales
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

try:
    import torch
    import torch.nn.functional as F
except ModuleNotFoundError:
    sys.exit("tiny_tales: PyTorch is not installed; pip install graphllm[train]")

import numpy as np

from .corpus import BOS, EOS, write_tokens
from .export import write_tokenizer_bin, write_v0
from .model import Llama, Shape
from .vocabulary import load_vocabulary, train_vocabulary


@dataclass(frozen=True)
class Recipe:
    """All that decides what a training gives."""

    seed: str = "tiny tales"
    steps: int = 3800
    batch: int = 20  # rows a step
    length: int = 288  # tokens a row
    stories: int = 150_000
    held_out: int = 1000
    peak: float = 2.5e-3  # learning rate
    warmup: int = 150
    decay: float = 0.1  # of weights, in AdamW
    shape: Shape = field(default_factory=Shape)

    def rate(self, step: int) -> float:
        """Learning rate: up in a line, then down to a twentieth along a cosine."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


class Rows:
    """Rows of tokens, each beginning with a story and cut where it is full."""

    def __init__(self, path: Path, length: int) -> None:
        self.tokens = np.memmap(path, np.uint16, "r")
        starts = np.flatnonzero(np.asarray(self.tokens) == BOS)
        self.starts = starts[starts + length + 1 <= len(self.tokens)]
        if len(self.starts) == 0:
            raise SystemExit(f"tiny_tales: {path}: {len(self.tokens)} tokens are too few for one row of {length}")
        self.length = length

    def batch(self, rows: int, random: np.random.Generator) -> torch.Tensor:
        """int64 [rows, length + 1]: inputs and, one further, what is to be predicted."""
        at = random.choice(self.starts, rows)
        return torch.from_numpy(self.tokens[at[:, None] + np.arange(self.length + 1)].astype(np.int64))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a cut, whenever it comes, leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, recipe: Recipe) -> dict[str, Any]:
    """A checkpoint of this recipe."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        theirs = state["recipe"]
    except Exception as error:  # torch and pickle raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SystemExit(f"tiny_tales: {path}: not a checkpoint, {reason:.80}; remove it to begin again") from None
    if theirs != repr(recipe):
        raise SystemExit(f"tiny_tales: {path}: of another recipe; choose another --out or remove it to begin again")
    return state


@torch.no_grad()
def validate(model: Llama, rows: Rows, device: str) -> float:
    """Mean loss in nats a token over rows that the training never saw."""
    random = np.random.default_rng(0)
    losses = [_loss(model, rows.batch(32, random).to(device)).item() for _ in range(8)]
    return sum(losses) / len(losses)


def _loss(model: Llama, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def sample(model: Llama, device: str, seed: int, temperature: float = 0.7, most: int = 250) -> list[int]:
    """Tokens of a story from nothing but BOS."""
    random = torch.Generator().manual_seed(seed)
    ids = [BOS]
    most = min(most, model.shape.context)
    while len(ids) < most and ids[-1] != EOS:
        logits = model(torch.tensor([ids], device=device))[0, -1].float().cpu()
        ids.append(int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=random)))
    return ids[1:]


def prepare(out: Path, recipe: Recipe) -> tuple[Rows, Rows]:
    """The vocabulary and the token files, those that are not there yet; (training rows, validation rows)."""
    made_by = out / "corpus.txt"  # what the files there were made from
    wanted = f"seed {recipe.seed!r}, stories {recipe.stories}, held out {recipe.held_out}\n"
    if made_by.exists() and made_by.read_text(encoding="utf-8") != wanted:
        raise SystemExit(f"tiny_tales: {out}: holds another corpus; choose another --out or remove it to begin again")
    made_by.write_text(wanted, encoding="utf-8")
    vocabulary_file = out / "tokenizer.model"
    if not vocabulary_file.exists():
        print("vocabulary", flush=True)
        train_vocabulary(vocabulary_file, recipe.seed)
    vocabulary = load_vocabulary(vocabulary_file)
    for name, seed, count in (
        ("train.u16", recipe.seed, recipe.stories),
        ("held_out.u16", f"{recipe.seed}, held out", recipe.held_out),
    ):
        if not (out / name).exists():
            tokens = write_tokens(out / name, vocabulary, seed, count)
            print(f"{name}: {count} stories, {tokens / 1e6:.1f} M tokens", flush=True)
    return Rows(out / "train.u16", recipe.length), Rows(out / "held_out.u16", recipe.length)


class Training:
    """A model, its optimiser, and where they are in the recipe."""

    def __init__(self, out: Path, recipe: Recipe, device: str) -> None:
        self.out, self.recipe, self.device = out, recipe, device
        torch.manual_seed(0)
        self.model = Llama(recipe.shape).to(device)
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.peak, betas=(0.9, 0.95))
        self.step = 0
        self.log: list[tuple[int, float, float]] = []  # (step, training loss, validation loss)
        self.checkpoint = out / "checkpoint.pt"
        if self.checkpoint.exists():
            state = load(self.checkpoint, recipe)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.log = state["step"], [tuple(row) for row in state["log"]]
            print(f"goes on at step {self.step}", flush=True)

    def save(self) -> None:
        save(
            self.checkpoint,
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "log": [list(row) for row in self.log],
                "recipe": repr(self.recipe),
            },
        )
        with (self.out / "losses.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "training", "held_out"), *self.log])

    def one_step(self, rows: Rows) -> float:
        """The batch of a step follows from its number alone, so a training that was stopped sees the same ones."""
        batch = rows.batch(self.recipe.batch, np.random.default_rng((1, self.step))).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        loss = _loss(self.model, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return loss.item()

    def run(self, rows: Rows, held_out: Rows, every: int) -> bool:
        """Train to the end, or until interrupted; whether the end was reached."""
        stop = False

        def ask_to_stop(signal: int, frame: FrameType | None) -> None:
            nonlocal stop
            stop = True

        before = {s: signal.signal(s, ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            losses: list[float] = []
            started = time.perf_counter()
            while self.step < self.recipe.steps and not stop:
                losses.append(self.one_step(rows))
                if self.step % every == 0 or self.step == self.recipe.steps:
                    self._report(losses, held_out, time.perf_counter() - started)
                    losses, started = [], time.perf_counter()
            self.save()
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
        return self.step == self.recipe.steps

    def _report(self, losses: list[float], held_out: Rows, seconds: float) -> None:
        value = validate(self.model, held_out, self.device)
        self.log.append((self.step, round(sum(losses) / len(losses), 4), round(value, 4)))
        self.save()
        speed = len(losses) * self.recipe.batch * self.recipe.length / seconds
        print(f"step {self.step}: loss {self.log[-1][1]:.3f}, held out {value:.3f}, {speed:.0f} tok/s", flush=True)
        vocabulary = load_vocabulary(self.out / "tokenizer.model")
        with (self.out / "samples.txt").open("a") as file:
            file.write(f"step {self.step}: {vocabulary.decode(sample(self.model, self.device, self.step))}\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the demo model.")
    parser.add_argument("--out", type=Path, default=Path("tiny_tales"), help="folder of everything that is made")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--stories", type=int, default=Recipe.stories, help="stories in the corpus")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=0)
    a = parser.parse_args()
    if a.stories < 1 or a.steps < 1 or a.every < 1:
        sys.exit("tiny_tales: --stories, --steps and --every; expected at least 1")
    if a.threads:
        torch.set_num_threads(a.threads)
    recipe = Recipe(steps=a.steps, stories=a.stories)
    try:
        a.out.mkdir(parents=True, exist_ok=True)
        rows, held_out = prepare(a.out, recipe)
        training = Training(a.out, recipe, "cuda" if torch.cuda.is_available() else "cpu")
        if not training.run(rows, held_out, a.every):
            print(f"stopped at step {training.step}; the same command goes on from there")
            return
        weights = training.model.state_dict()
        write_v0(a.out / "model.bin", weights, recipe.shape)
        write_tokenizer_bin(a.out / "tokenizer.bin", load_vocabulary(a.out / "tokenizer.model"))
    except OSError as error:
        sys.exit(f"tiny_tales: {error.filename or a.out}: {error.strerror}; what was complete before is kept")
    except RuntimeError as error:  # what torch.save makes of a full disk
        sys.exit(f"tiny_tales: {str(error).splitlines()[0]}; what was complete before is kept")
    with suppress(ModuleNotFoundError):
        from .curve import draw

        draw(a.out / "losses.csv", a.out / "losses.png")
    print(f"{a.out / 'model.bin'}: {asdict(recipe.shape)}")


if __name__ == "__main__":
    main()
