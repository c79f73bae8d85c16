"""``graphllm eval``: perplexity on a text, divergence from another plan, accuracy on multiple choice."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def run(a: argparse.Namespace) -> int:
    from graphllm.cli.loading import load_model
    from graphllm.cli.terminal import Meter
    from graphllm.errors import GraphLLMError
    from graphllm.measure.evaluate.multiple_choice import multiple_choice, read_questions
    from graphllm.measure.evaluate.run import Cut, evaluate_text
    from graphllm.measure.evaluate.text import choices_text, perplexity_text

    if a.choices is not None and a.against is not None:
        raise GraphLLMError("--against: compares predictions on a text; expected --text or --tokens with it")
    with Meter() as meter:
        if a.choices is not None:
            questions = read_questions(Path(a.choices), a.limit)
            found = multiple_choice(load_model(a, meter), questions, lambda n, total: meter("questions", n, total))
            text = choices_text(found)
        else:
            model = load_model(a, meter)
            against = load_model(a, meter, other=a.against) if a.against is not None else None
            how = Cut(a.window, a.stride, a.bos, a.limit)
            file = Path(a.text if a.tokens is None else a.tokens)
            found = evaluate_text(model, file, how, tokens=a.tokens is not None, against=against, done=meter)
            text = perplexity_text(found)
    print(json.dumps(found.as_json(), indent=1) if a.json else text)
    return 0
