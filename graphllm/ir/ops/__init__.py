"""The op table. Importing this package enters every operation; each is its NumPy reference, see ``ir.opdef``."""

from graphllm.ir.ops.dense import add, embed, linear, mul, rmsnorm, silu
from graphllm.ir.ops.precision import cast, dequantize
from graphllm.ir.ops.sequence import attention, kv_write, rope, rope_frequencies, rotation
from graphllm.ir.ops.shape import concat, interleave, reshape, split, take_rows

__all__ = [
    "add",
    "attention",
    "cast",
    "concat",
    "dequantize",
    "embed",
    "interleave",
    "kv_write",
    "linear",
    "mul",
    "reshape",
    "rmsnorm",
    "rope",
    "rope_frequencies",
    "rotation",
    "silu",
    "split",
    "take_rows",
]
