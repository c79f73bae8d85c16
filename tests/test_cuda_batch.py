"""Batches whose tokens the CUDA device chooses: what the host would have chosen, and nothing else comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from graphllm.codegen.cuda.generate import generate
from graphllm.compiler.native.simulated import simulated
from graphllm.errors import RunError
from graphllm.measure.bench.cases import Case
from graphllm.measure.bench.run import _run
from graphllm.runtime.batch import Request, complete
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.cuda.simulator import Simulator
from graphllm.runtime.device import Device, Logits, Row
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import Progress
from graphllm.runtime.sampling import Sampler, SamplerConfig, make_sampler
from tests.cuda_open_device import cuda_lowered, needs_a_compiler
from tests.fake_gpu import FakeDriver, model_kernels, model_program
from tests.lowered_models import device, engine, lowered

__all__ = ["needs_a_compiler"]
VOCAB, SLOTS = 67, 4
ON_DEVICE: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9},
    {"temperature": 1.2, "top_k": 7},
    {"temperature": 1.2, "top_p": 0.6},
    {"temperature": 1.5, "min_p": 0.2},
    {"temperature": 1.1, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
]
ON_HOST: list[dict[str, Any]] = [
    {"temperature": 0.9, "repetition_penalty": 1.3},
    {"logit_bias": {4: 2.0}},
    {"temperature": 1.0, "top_k": 5, "variant": "sample.py"},
]


def requests(seed: int, count: int, kinds: Sequence[dict[str, Any]], logprobs: int | None = None) -> list[Request]:
    """Ragged prompts that ask for answers of every length, each in its own way."""
    rng = np.random.default_rng(seed)
    out: list[Request] = []
    for i in range(count):
        config = SamplerConfig(seed=100 * seed + i, **kinds[int(rng.integers(0, len(kinds)))])
        prompt = rng.integers(3, VOCAB, int(rng.choice([1, 2, 9, 30]))).tolist()
        most = [None, 0, 1, 2, 5, 12][int(rng.integers(0, 6))]
        stops = frozenset(rng.integers(0, VOCAB, 6).tolist())
        own = logprobs if rng.integers(0, 2) else None
        out.append(Request(prompt, make_sampler(config, VOCAB, VOCAB - 3), most, stops, None, own))
    return out


def answers(where: Engine, asked: Sequence[Request]) -> list[Any]:
    done: list[Progress] = [p for _, p in sorted(complete(where, asked), key=lambda pair: pair[0])]
    return [(p.tokens, p.finish, p.logprobs, p.prompt_tokens, p.seed) for p in done]


class Fake:
    """A model on a driver that is a NumPy device, and beside it on NumPy."""

    def __init__(self) -> None:
        model = lowered("plain")
        program = model_program(model.module)
        self.driver = FakeDriver(model_kernels(program, device(model)))
        self.device = CudaDevice(self.driver, program, model.module, model.weights.__getitem__)
        self.engine, self.numpy = Engine(self.device, model.module), engine(model)

    def watched(self) -> None:
        self.driver.calls.clear()
        self.driver.fetched.clear()


@pytest.fixture(scope="module")
def fake() -> Fake:
    return Fake()


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_is_answered_as_on_the_host(fake: Fake, seed: int) -> None:
    kinds = ON_DEVICE if seed % 2 else [*ON_DEVICE, *ON_HOST]
    logprobs = None if seed < 4 else 2
    found, wanted = (answers(e, requests(seed, 14, kinds, logprobs)) for e in (fake.engine, fake.numpy))
    assert found == wanted
    assert len({finish for _, finish, *_ in found}) > 1


def begun(fake: Fake, count: int) -> list[tuple[int, int]]:
    """Slots with a prompt each, on both sides: (token, slot)."""
    for e in (fake.engine, fake.numpy):
        for slot in range(count):
            e.truncate(0, slot)
            e.feed([3 + slot, 9, 5 * slot], slot)
    return [(7 + slot, slot) for slot in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_logits_are_fetched_and_all_tokens_come_in_one_copy(fake: Fake, count: int) -> None:
    pairs = begun(fake, count)
    samplers, others = (
        [Sampler(SamplerConfig(seed=i, **ON_DEVICE[i]), VOCAB, VOCAB) for i in range(count)] for _ in "ab"
    )
    fake.watched()
    found = list(fake.engine.tokens_many([(*pair, s) for pair, s in zip(pairs, samplers, strict=True)], 9))
    assert fake.driver.fetched == [4 * (2 if count == 2 else 4)] * 9  # of each row of the function
    assert fake.driver.calls.count("run") == 9
    assert fake.driver.calls.count("upload") == 1 + 9  # the step, and where each draw falls
    for tokens in found:
        logits = fake.numpy.step_many(pairs)
        assert tokens == [s.sample(row, []) for s, row in zip(others, logits, strict=True)]
        pairs = [(token, slot) for token, (_, slot) in zip(tokens, pairs, strict=True)]
    assert fake.engine.lengths == fake.numpy.lengths
    # streams of random numbers go on where they would have
    assert [s.draw() for s in samplers[1:]] == [s.draw() for s in others[1:]]


def test_only_the_logits_that_are_asked_for_are_fetched(fake: Fake) -> None:
    pairs = begun(fake, 3)
    sampler, other = (Sampler(SamplerConfig(seed=5, temperature=1.0), VOCAB, VOCAB) for _ in range(2))
    fake.watched()
    found = fake.engine.choose_many([(*pairs[0], None), (*pairs[1], sampler), (*pairs[2], None)])
    assert fake.driver.fetched == [4 * 4, 4 * VOCAB, 4 * VOCAB]
    wanted = fake.numpy.step_many(pairs)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[2], wanted[2])
    assert found[1] == other.sample(wanted[1], [])
    assert fake.engine.lengths == fake.numpy.lengths


def test_a_timed_batch_leaves_logits_where_they_are(fake: Fake) -> None:
    """``bench`` times what answers are made by: as many rows are cached as were asked for, tokens alone come back."""
    for batch in (1, 3):
        fake.watched()
        case = Case("tg", 5, batch, 2)
        assert _run(fake.engine, case, warm=False)[0] > 0
        assert fake.engine.lengths[:batch] == [7] * batch
        assert max(fake.driver.fetched[-5:]) < 4 * VOCAB
        assert len(fake.driver.fetched) == 5 + batch  # and the logits of each sequence's first tokens


def test_what_is_on_its_way_when_an_answer_ends_is_not_lost(fake: Fake) -> None:
    """Nine tokens of two rows, of which one stops: the step that was sent by then counts for the other."""
    wanted = answers(fake.numpy, [Request([5, 9], Sampler(SamplerConfig(), VOCAB, VOCAB), 10) for _ in range(1)])[0][0]
    alike = [Request([5, 9], Sampler(SamplerConfig(), VOCAB, VOCAB), 10, frozenset(s)) for s in ([], [wanted[4]])]
    at = wanted.index(wanted[4])
    fake.watched()
    found = answers(fake.engine, alike)
    assert [tokens for tokens, *_ in found] == [wanted, wanted[:at]]
    assert fake.driver.calls.count("run") == 2 + 9  # two prompts


def test_a_batch_given_up_leaves_everything_in_order(fake: Fake) -> None:
    for taken in range(4):
        pairs = begun(fake, 3)
        samplers, others = (
            [Sampler(SamplerConfig(seed=i, temperature=1.0), VOCAB, VOCAB) for i in range(3)] for _ in "ab"
        )
        tokens = fake.engine.tokens_many([(*pair, s) for pair, s in zip(pairs, samplers, strict=True)])
        for _ in range(taken):
            chosen = next(tokens)
            logits = fake.numpy.step_many(pairs)
            assert chosen == [s.sample(row, []) for s, row in zip(others, logits, strict=True)]
            pairs = [(token, slot) for token, (_, slot) in zip(chosen, pairs, strict=True)]
        tokens.close()  # type: ignore[attr-defined]
        assert [s.draw() for s in samplers] == [s.draw() for s in others]
        assert fake.engine.lengths == fake.numpy.lengths
        assert all(
            np.array_equal(a, b) for a, b in zip(*(e.step_many(pairs) for e in (fake.engine, fake.numpy)), strict=True)
        )


def test_what_cannot_be_chosen(fake: Fake) -> None:
    pairs = begun(fake, 2)
    greedy = Sampler(SamplerConfig(), VOCAB, VOCAB)
    with pytest.raises(RunError, match="two tokens for one slot"):
        next(iter(fake.engine.tokens_many([(*pairs[0], greedy), (*pairs[0], greedy)])))
    with pytest.raises(RunError, match="token 99: not in the vocabulary"):
        fake.engine.choose_many([(99, 0, greedy), (*pairs[1], None)])
    tokens = fake.engine.tokens_many([(*pair, greedy) for pair in pairs])
    next(iter(tokens))
    fake.engine.step(3, 3)
    with pytest.raises(RunError, match="another step was run in between"):
        next(iter(tokens))
    fake.engine.truncate(0, 3)


def test_broken_logits_are_told_unless_nobody_asks() -> None:
    own = Fake()
    kernel = own.driver.kernels["step_decode_2"]

    def broken(driver: FakeDriver, launch: Any) -> None:
        kernel(driver, launch)
        driver.at(launch.arguments[1], 4 * VOCAB).view(np.float32)[3] = np.nan  # of the first row

    own.driver.kernels = {**own.driver.kernels, "step_decode_2": broken}
    pairs, greedy = begun(own, 2), Sampler(SamplerConfig(), VOCAB, VOCAB)
    logits, token = own.engine.choose_many([(*pairs[0], None), (*pairs[1], greedy)])
    assert np.isnan(np.asarray(logits)[3])
    assert token == own.numpy.step_many(pairs)[1].argmax()
    for ask in (
        lambda: own.engine.choose_many([(3, 0, greedy), (4, 1, None)]),
        lambda: list(own.engine.tokens_many([(3, 0, greedy), (4, 1, greedy)])),
    ):
        with pytest.raises(RunError, match=r"^logits: NaN or infinite, found on the device"):
            ask()


class Hidden:
    """A device that is asked for logits, whatever else it can do."""

    def __init__(self, inner: Device) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in ("append", "tokens", "choose"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def rows(self, function: str, rows: Sequence[Row]) -> Logits:
        return self._inner.rows(function, rows)


@pytest.fixture(scope="module", params=["f32", "bf16"])
def simulated_device(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Engine]]:
    """One device as the engine sees it, choosing and not; its arena is full of NaN before every step that is sent."""
    model = cuda_lowered("one_layer", request.param)
    program = generate(model.module)
    driver = Simulator(simulated(list(program.kernels.values()), "sm_90", watch=True, brief=True), "sm_90", seed=4)
    made = CudaDevice(driver, program, model.module, model.weights.__getitem__, poison=True)
    yield Engine(made, model.module), Engine(Hidden(made), model.module)  # type: ignore[arg-type]
    made.close()


def test_kernels_choose_what_the_host_does(simulated_device: tuple[Engine, Engine]) -> None:
    """Steps that follow each other without the host, blanks among their rows, every access looked at."""
    choosing, asking = simulated_device
    greedy = Sampler(SamplerConfig(), choosing.vocab, choosing.vocab)
    assert (choosing.chooses(greedy), asking.chooses(greedy)) == (True, False)
    kinds = [*ON_DEVICE, *ON_HOST[:1]]
    for seed in (1, 2):
        found, wanted = (answers(e, requests(seed, 7, kinds[: len(ON_DEVICE) + seed - 1])) for e in (choosing, asking))
        assert found == wanted
