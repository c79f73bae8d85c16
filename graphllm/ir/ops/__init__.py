"""The op table. Importing this package enters every operation; each is its NumPy reference, see ``ir.opdef``."""

from graphllm.ir.ops.dense import add, embed, linear, mul, rmsnorm, silu
from graphllm.ir.ops.experts import expert_linear, expert_sum, top_experts
from graphllm.ir.ops.int8 import dequantize, group_scales, linear_int8, quantize_groups, quantize_rows
from graphllm.ir.ops.precision import cast
from graphllm.ir.ops.sequence import attention, attention_int8, kv_write, rope, rope_frequencies, rotation
from graphllm.ir.ops.shape import concat, interleave, reshape, split, take_rows

__all__ = [
    "add",
    "attention",
    "attention_int8",
    "cast",
    "concat",
    "dequantize",
    "embed",
    "expert_linear",
    "expert_sum",
    "group_scales",
    "interleave",
    "kv_write",
    "linear",
    "linear_int8",
    "mul",
    "quantize_groups",
    "quantize_rows",
    "reshape",
    "rmsnorm",
    "rope",
    "rope_frequencies",
    "rotation",
    "silu",
    "split",
    "take_rows",
    "top_experts",
]
