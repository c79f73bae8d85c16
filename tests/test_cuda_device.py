"""The CUDA device on a driver that does nothing before it must: steps, running ahead, uploads, memory, failures."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest

from graphllm.errors import DeviceError, RunError
from graphllm.runtime.cuda.device import AHEAD, CudaDevice
from graphllm.runtime.cuda.places import Sizes, offsets, total
from graphllm.runtime.cuda.upload import upload
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import Progress, generate_tokens
from graphllm.runtime.sampling import Sampler, SamplerConfig
from tests.fake_gpu import FakeDriver, model_kernels, model_program
from tests.lowered_models import Lowered, device, engine, lowered

PROMPT = [1, 5, 9, 14, 3, 8, 2, 60, 33, 21, 4]


class Fake:
    """A model of the zoo on the fake driver, and beside it on NumPy."""

    def __init__(self, name: str = "plain", **options: Any) -> None:
        self.model: Lowered = lowered(name)
        self.program = model_program(self.model.module)
        self.driver = FakeDriver(model_kernels(self.program, device(self.model)))
        self.device = CudaDevice(
            self.driver, self.program, self.model.module, self.model.weights.__getitem__, **options
        )
        self.engine, self.numpy = Engine(self.device, self.model.module), engine(self.model)

    def generated(self, where: Engine, config: SamplerConfig, prompt: list[int] = PROMPT, n: int | None = 20) -> Any:
        where.truncate(0)
        progress = Progress()
        sampler = Sampler(config, where.vocab, where.vocab - 3)
        tokens = list(generate_tokens(where, prompt, sampler, max_tokens=n, stop_ids=frozenset({2}), progress=progress))
        return tokens, progress.finish, where.lengths[0], sampler


@pytest.fixture(scope="module")
def fake() -> Fake:
    return Fake()


SETTINGS = {
    "greedy": SamplerConfig(),
    "warm": SamplerConfig(temperature=0.9, seed=3),
    "hot": SamplerConfig(temperature=3.0, seed=4),
    "top_k": SamplerConfig(temperature=1.2, top_k=7, seed=5),
    "top_p": SamplerConfig(temperature=1.2, top_p=0.6, seed=6),
    "min_p": SamplerConfig(temperature=1.5, min_p=0.2, seed=7),
    "all": SamplerConfig(temperature=1.1, top_k=20, top_p=0.9, min_p=0.05, seed=8),
    "on the host": SamplerConfig(temperature=0.9, repetition_penalty=1.3, logit_bias={4: 2.0}, seed=9),
    "cold": SamplerConfig(temperature=1e-9, seed=10),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_the_device_chooses_is_what_the_host_would_have_chosen(fake: Fake, setting: str) -> None:
    config = SETTINGS[setting]
    own, here = fake.generated(fake.engine, config), fake.generated(fake.numpy, config)
    assert own[:3] == here[:3]
    if config.temperature:  # and the stream of random numbers goes on where it would have
        assert [own[3].draw() for _ in range(5)] == [here[3].draw() for _ in range(5)]
    on_device = fake.engine.chooses(Sampler(config, fake.engine.vocab, fake.engine.vocab))
    assert on_device == (setting not in ("on the host", "cold"))


@pytest.mark.parametrize("n", [0, 1, 2, 3, None])
def test_answers_of_every_length(fake: Fake, n: int | None) -> None:
    for config in (SamplerConfig(), SETTINGS["hot"]):
        for prompt in (PROMPT, [1], list(range(3, 47))):
            own = fake.generated(fake.engine, config, prompt, n)
            assert own[:3] == fake.generated(fake.numpy, config, prompt, n)[:3]
            assert own[1] in ("length", "stop", "context")
    assert fake.generated(fake.engine, SETTINGS["hot"], list(range(3, 51)), None)[1] == "context"


def test_the_device_runs_ahead_and_is_told_once(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake.driver, "hurries", False)
    fake.engine.truncate(0)
    fake.engine.feed(PROMPT)
    fake.driver.calls.clear()
    tokens = fake.engine.tokens(7, 0, Sampler(SamplerConfig(), 67, 67), 9)
    first = next(tokens)
    assert fake.driver.calls.count("run") == AHEAD
    assert fake.driver.waiting > 0  # the next is on its way before the first was taken
    rest = list(tokens)
    assert len([first, *rest]) == 9
    assert fake.driver.calls.count("run") == fake.driver.calls.count("download") == 9
    assert fake.driver.calls.count("upload") == 1
    assert fake.engine.lengths[0] == len(PROMPT) + 9


def test_a_draw_is_told_with_each_step(fake: Fake) -> None:
    fake.engine.truncate(0)
    fake.engine.feed(PROMPT)
    fake.driver.calls.clear()
    list(fake.engine.tokens(7, 0, Sampler(SETTINGS["warm"], 67, 67), 5))
    assert fake.driver.calls.count("upload") == 1 + 5


def test_an_answer_given_up_leaves_everything_in_order(fake: Fake) -> None:
    for taken in range(5):
        sampler, other = (Sampler(SETTINGS["hot"], 67, 67) for _ in range(2))
        logits = [np.array(e.feed(PROMPT)) for e in (fake.engine, fake.numpy) if e.truncate(0) is None]
        assert np.array_equal(*logits)
        tokens = fake.engine.tokens(7, 0, sampler)
        got = list(islice(tokens, taken))
        tokens.close()
        token = 7
        for expected in got:
            assert other.sample(fake.numpy.step(token), []) == expected
            token = expected
        assert sampler.draw() == other.draw()
        assert fake.engine.lengths == fake.numpy.lengths
        # what comes after it is as if nothing had run ahead
        assert np.array_equal(fake.engine.feed([token, 4, 5]), fake.numpy.feed([token, 4, 5]))


def test_two_answers_at_once_are_refused(fake: Fake) -> None:
    fake.engine.truncate(0)
    fake.engine.feed(PROMPT)
    first = fake.engine.tokens(7, 0, Sampler(SamplerConfig(), 67, 67))
    next(first)
    fake.engine.step(3, 1)
    with pytest.raises(RunError, match="another step was run in between"):
        next(first)
    fake.engine.truncate(0, 1)


def test_logits_that_are_no_numbers_are_told() -> None:
    fake = Fake("one_layer")
    weights = {n: w.copy() for n, w in fake.model.weights.items()}
    next(w for n, w in weights.items() if n.endswith("w_down"))[:] = np.nan
    broken = device(replace(fake.model, weights=weights))
    fake.driver.kernels = model_kernels(fake.program, broken)
    tokens = fake.engine.tokens(7, 0, Sampler(SamplerConfig(), 67, 67))
    with pytest.raises(RunError, match=r"^logits: NaN or infinite, found on the device; expected finite numbers"):
        next(tokens)


def test_every_way_to_step(fake: Fake) -> None:
    both = fake.engine, fake.numpy
    for e in both:
        for slot in range(4):
            e.truncate(0, slot)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 67, 30).tolist()
    for chunk in (0, 3):
        for e in both:
            e.truncate(0)
        own, here = (np.array(e.feed(ids, chunk=chunk)) for e in both)
        assert np.array_equal(own, here)
    for e in both:
        e.feed(ids[:5], slot=2)
    pairs = [(4, 0), (9, 2), (11, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(*(e.step_many(pairs) for e in both), strict=True))
    assert np.array_equal(fake.engine.step(8, 2), fake.numpy.step(8, 2))
    for e in both:
        e.truncate(0, 1)
    own, here = (np.concatenate([np.array(b) for b in e.score(ids, slot=1)]) for e in both)
    assert np.array_equal(own, here)


def test_only_the_last_logits_of_a_prompt_are_fetched(fake: Fake) -> None:
    fake.engine.truncate(0)
    fake.driver.calls.clear()
    fake.engine.feed(list(range(3, 44)), chunk=8)
    assert fake.driver.calls.count("run") == 6
    assert fake.driver.calls.count("download") == 1


def test_a_step_has_blocks_for_the_keys_it_sees() -> None:
    fake = Fake("one_layer")
    fake.driver.grids.clear()
    for token in range(40):
        fake.engine.step(token)
    chunks = [y for _, y in fake.driver.grids]
    assert chunks == [1] * 8 + [2] * 8 + [4] * 16 + [8] * 8
    fake.driver.grids.clear()
    fake.engine.truncate(14)
    list(fake.engine.tokens(3, 0, Sampler(SamplerConfig(), 67, 67), 4))
    assert [y for _, y in fake.driver.grids] == [2, 1, 2, 1, 4, 1, 4, 1]  # the choice has one block


def test_graphs_are_made_once() -> None:
    fake = Fake("one_layer")
    fake.device.prepare("decode")
    assert fake.driver.calls.count("graph") == 2 * 8
    fake.engine.feed([1])
    list(fake.engine.tokens(3, 0, Sampler(SamplerConfig(), 67, 67), 40))
    assert fake.driver.calls.count("graph") == 2 * 8


def test_weights_lie_where_launches_say() -> None:
    fake = Fake("tied")
    fake.driver.wait(fake.driver.mark())
    places = fake.device._places
    for i, name in enumerate(fake.program.weights):
        content = fake.model.weights[name].reshape(-1).view(np.uint8)
        at = places.weights + places.weight_offsets[i]
        assert at % 256 == 0
        assert np.array_equal(fake.driver.at(at, len(content)), content)
    memory = fake.device.memory
    assert memory.weights == sum(w.nbytes for w in fake.model.weights.values())
    assert memory.states == sum(s.nbytes for s in fake.device.states.values())
    assert not any(s.any() for s in fake.device.states.values())


def test_what_lies_on_the_device_can_be_looked_at(fake: Fake) -> None:
    fake.engine.truncate(0)
    logits = np.array(fake.engine.feed(PROMPT))
    stream = fake.program.streams["prefill_8"]
    assert np.array_equal(fake.device.arena[stream.logits :].view(np.float32)[: len(logits)], logits)
    assert fake.device.arena.nbytes == fake.program.arena


def test_poison_is_there_before_each_step() -> None:
    fake = Fake("one_layer", poison=True)
    seen: list[bool] = []
    step = fake.driver.kernels["step_decode"]

    def look(driver: FakeDriver, launch: Any) -> None:
        arena = driver.at(fake.device._places.arena, fake.program.arena)
        seen.append(bool((arena == 0xFF).all()))
        step(driver, launch)

    fake.driver.kernels = {**fake.driver.kernels, "step_decode": look}
    fake.engine.step(3)
    fake.engine.step(4)
    assert seen == [True, True]


@pytest.mark.parametrize("seed", range(6))
def test_any_weights_through_any_buffers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.choice([0, 1, 4, 255, 256, 257, 1000, 4096, 5000], rng.integers(1, 12))]
    weights = [rng.integers(0, 256, n, np.uint8) for n in sizes]
    driver, told = FakeDriver(), list[tuple[int, int]]()
    to = driver.allocate(max(1, total(sizes)))
    upload(
        driver, to, sizes, weights.__getitem__, lambda *p: told.append(p), buffer=int(rng.choice([256, 700, 1 << 16]))
    )
    for start, weight in zip(offsets(sizes), weights, strict=True):
        assert np.array_equal(driver.at(to + start, len(weight)), weight)
    done = [d for d, _ in told]
    assert done == sorted(done)
    assert not told or told[-1] == (total(sizes), total(sizes))


def test_a_weight_that_cannot_be_read_ends_the_upload() -> None:
    driver = FakeDriver()
    to = driver.allocate(1 << 16)

    def read(i: int) -> Any:
        if i == 2:
            raise RunError("weight 2: damaged")
        return np.zeros(5000, np.uint8)

    with pytest.raises(RunError, match="weight 2: damaged"):
        upload(driver, to, [5000] * 4, read, buffer=1000)
    assert not [t for t in threading.enumerate() if t.name == "weights"]


@pytest.mark.parametrize("call", ["allocate", "fill", "upload", "mark", "wait"])
def test_a_device_that_fails_while_it_is_made_is_closed(call: str) -> None:
    model = lowered("one_layer")
    program = model_program(model.module)
    driver = FakeDriver(model_kernels(program, device(model)))
    driver.fail[call] = f"fake: {call} failed"
    with pytest.raises(DeviceError, match=f"fake: {call} failed"):
        CudaDevice(driver, program, model.module, model.weights.__getitem__)
    assert driver.closed == 1
    assert not [t for t in threading.enumerate() if t.name == "weights"]


@pytest.mark.parametrize("call", ["upload", "run", "download", "mark", "wait", "graph"])
def test_after_a_failed_step_the_next_is_right(call: str) -> None:
    fake = Fake("one_layer")
    both = fake.engine, fake.numpy
    fake.engine.step(3)
    fake.numpy.step(3)
    fake.device._graphs.clear()
    fake.driver.fail[call] = "fake: no"
    with pytest.raises(DeviceError, match="fake: no"):
        fake.engine.step(4)
    assert fake.engine.lengths[0] == 1
    assert np.array_equal(*(np.array(e.step(4)) for e in both))
    assert np.array_equal(*(np.array(e.step(5)) for e in both))


def test_an_interrupt_in_a_step_leaves_the_device_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("one_layer")

    def interrupted(mark: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(fake.driver, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fake.engine.step(3)
    assert np.array_equal(fake.engine.step(9), fake.numpy.step(9))


def test_the_largest_context_that_fits_is_told() -> None:
    model = lowered("plain")
    program = model_program(model.module)
    sizes = Sizes.of(program, model.module)
    spare = 96 << 20
    sizes.check(sizes.total + spare, "a card")
    with pytest.raises(DeviceError) as caught:
        sizes.check(sizes.total + spare - 1, "a card")
    said = str(caught.value)
    assert said.startswith("memory of a card: ")
    assert f"for {sizes.context} positions" in said
    fitting = int(said.split("--context ")[1].split(" ")[0])
    assert 0 < fitting < sizes.context
    per_position = total(sizes.states) // sizes.context
    assert total(sizes.weights) + sizes.work + fitting * per_position <= sizes.total - 1
    with pytest.raises(DeviceError, match="not even a short context fits"):
        sizes.check(spare, "a card")


def test_closing(fake: Fake) -> None:
    other = Fake("one_layer")
    other.device.close()
    other.device.close()
    assert other.driver.closed == 1
    driver = Fake("one_layer").driver  # the device is gone at once
    assert driver.closed == 1


def test_offsets_are_aligned() -> None:
    for sizes in ([], [1], [256, 1, 0, 300]):
        at = offsets(sizes)
        assert all(a % 256 == 0 for a in at)
        assert all(b - a >= n for (a, b), n in zip(pairwise((*at, total(sizes))), sizes, strict=True))
