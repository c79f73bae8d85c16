"""Several prompts side by side: each step computes one token of every sequence, each as if it were alone.

python examples/batch.py stories.gllm "Once upon a time" "Lily and her dog" "Tom was very sad"
"""

import sys

import graphllm

path, *prompts = sys.argv[1:]
model = graphllm.load(path, slots=len(prompts))  # a plan for fewer sequences is lowered again, in memory

for prompt, answer in zip(prompts, model.generate_batch(prompts, max_tokens=50), strict=True):
    print(f"{prompt}{answer.text}\n  [{len(answer.tokens)} tokens, ended by: {answer.finish}]")
