"""Pointers for compiled loops: arrays whose uses are not counted.

numba counts the uses of an array wherever it is handed on, in a loop at each step: atomically, in memory that all
threads share, which takes longer than what the loop does. Of a pointer nothing is counted; something else must keep
the array.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_INT = ir.IntType(32)


@intrinsic
def pointer(typing: Any, array: Any) -> Any:
    """Where an array without gaps begins; it is indexed like a flat one."""

    def emit(context: Any, builder: Any, sign: Any, values: Any) -> Any:
        return context.make_array(array)(context, builder, values[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def shifted(typing: Any, start: Any, steps: Any) -> Any:
    """A pointer, so many places on."""
    return start(start, types.int64), lambda context, builder, sign, values: builder.gep(values[0], [values[1]])


@intrinsic
def fetch(typing: Any, place: Any) -> Any:
    """Have the memory at a pointer brought to the processor, without waiting for it."""

    def emit(context: Any, builder: Any, sign: Any, values: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", (byte,), ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        )
        builder.call(function, [builder.bitcast(values[0], byte), _INT(0), _INT(3), _INT(1)])
        return context.get_dummy_value()

    return types.void(place), emit


@intrinsic
def to_float(typing: Any, value: Any) -> Any:
    """The float32 whose bits are those of an int32, as which it is kept among floats."""

    def emit(context: Any, builder: Any, sign: Any, values: Any) -> Any:
        return builder.bitcast(builder.trunc(values[0], _INT), ir.FloatType())

    return types.float32(types.int64), emit


@intrinsic
def to_int(typing: Any, value: Any) -> Any:
    """The number that `to_float` made a float32 of."""

    def emit(context: Any, builder: Any, sign: Any, values: Any) -> Any:
        return builder.zext(builder.bitcast(values[0], _INT), ir.IntType(64))

    return types.int64(types.float32), emit
