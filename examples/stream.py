"""Print an answer as it is generated, sampled with a seed; the first argument is a plan or a checkpoint.

python examples/stream.py stories.gllm "Once upon a time"
"""

import sys

import graphllm

path, prompt = sys.argv[1:]
model = graphllm.load(path, say=lambda line: print(line, file=sys.stderr))  # a checkpoint is compiled once and cached

answer = model.stream(prompt, max_tokens=100, stop=["\n\n"], temperature=0.8, top_p=0.95, seed=42)
print(prompt, end="")
for text in answer:  # whole characters only, however the tokens cut them
    print(text, end="", flush=True)
print()

progress = answer.progress
print(
    f"{len(progress.tokens)} tokens, {progress.decode_speed:.0f} a second, ended by: {progress.finish}", file=sys.stderr
)
