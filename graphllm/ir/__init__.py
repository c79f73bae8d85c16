"""The op-level IR: types, values, op table, text, verifier, interpreter. Knows nothing of checkpoints or targets."""

from graphllm.ir import ops as ops
from graphllm.ir.builder import Builder as Builder
from graphllm.ir.builder import kernel as kernel
from graphllm.ir.core import Function as Function
from graphllm.ir.core import Module as Module
from graphllm.ir.core import Operation as Operation
from graphllm.ir.core import State as State
from graphllm.ir.core import Value as Value
from graphllm.ir.core import Weight as Weight
from graphllm.ir.interpreter import interpret as interpret
from graphllm.ir.parser import parse_module as parse_module
from graphllm.ir.printer import print_function as print_function
from graphllm.ir.printer import print_module as print_module
from graphllm.ir.types import TensorType as TensorType
from graphllm.ir.verifier import verify as verify
