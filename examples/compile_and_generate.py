"""Compile a checkpoint into one file, load that file, and let it go on with a text.

python examples/compile_and_generate.py stories260K.bin "Once upon a time" --tokenizer tok512.bin
"""

import argparse
from pathlib import Path

import graphllm

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", type=Path, help="a llama2.c .bin file or a Hugging Face folder")
parser.add_argument("prompt")
parser.add_argument("--tokenizer", type=Path, help="when it does not lie beside the checkpoint")
parser.add_argument("-o", "--output", type=Path, default=Path("model.gllm"))
arguments = parser.parse_args()

try:
    plan = graphllm.compile(arguments.checkpoint, arguments.output, tokenizer=arguments.tokenizer)
    print(f"{plan.path}: {plan.config['layers']} layers, {plan.path.stat().st_size} bytes")

    model = graphllm.load(plan.path)
    answer = model.generate(arguments.prompt, max_tokens=100)
except graphllm.GraphLLMError as error:  # one line that says what is wrong and what to do
    raise SystemExit(str(error)) from None

print(arguments.prompt + answer.text)
print(f"{answer.prompt_tokens} tokens read, {len(answer.tokens)} written, ended by: {answer.finish}")
