"""What lies between a checkpoint and its tokens: the IR at every stage, what each pass did, the code that runs.

python examples/look_at_ir.py stories.gllm
"""

import sys

import graphllm
from graphllm.ir.printer import print_function

model = graphllm.load(sys.argv[1])
plan = model.plan

for stage in ("traced", "optimised", "lowered"):
    module = plan.stage(stage)
    decode = module.functions["decode"]
    print(f"{stage}: {len(module.functions)} functions, {len(decode.ops)} operations or kernels in decode")

print("\nwhat each pass did")
for step in plan.report["passes"]:
    print(
        f"  {step['name']:18} {step['rewrites']:5} rewrites, then {step['ops']} operations, {step['kernels']} kernels"
    )

print("\nthe kernels of one step, with their places in memory")
print("\n".join(print_function(plan.lowered.functions["decode"]).splitlines()[:25]))

print("\nthe NumPy code that was generated for it")
print("\n".join(plan.source.splitlines()[:40]))

memory = model.engine.device.memory
print(f"\nweights {memory.weights} bytes, arena {memory.arena}, KV cache {memory.states}")
