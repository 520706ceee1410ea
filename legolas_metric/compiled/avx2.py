"""Six rows by sixteen columns of integer scores, in the registers of a processor with AVX2, in LLVM's language.

Rows rounded to int16 have integer scores, without any further error: one instruction multiplies sixteen pairs of
factors and adds them two by two. With 6 x 16 the twelve sums, two columns and a row fill the sixteen registers. The
scores are compared there with what each anchor needs, so that hardly any is ever written.
"""

from functools import cache, reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from legolas_metric.compiled.panels import PANELS

ROWS, COLUMNS = PANELS
_LANES = 8
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_SIXTEEN = ir.VectorType(_I32, COLUMNS)
_SUMS, _FACTORS = ir.VectorType(_I32, _LANES), ir.VectorType(ir.IntType(16), 2 * _LANES)
_HALVES = range(COLUMNS // _LANES)


@cache
def has_products() -> bool:
    """Whether the compiler makes code for a processor with the instruction for products of int16 pairs.

    Asked of numba's own target: NUMBA_CPU_NAME=generic and the like narrow what the processor could do.
    """
    target: Any = cpu_target.target_context  # a property to numba, whose type a checker cannot tell
    features = target.codegen().magic_tuple()[2]
    return "+avx2" in features.split(",")


def _micro_tile(windowed: bool) -> Any:
    """ROWS x COLUMNS scores; whether any lies between the bounds of its row, or of its column. Only then are they
    written. All arguments but the number of pairs of factors are addresses.
    """

    @intrinsic
    def micro_tile(typing: Any, where: Any) -> Any:
        signature = types.boolean(types.UniTuple(types.intp, 11))
        return signature, lambda context, builder, sign, values: _emit(builder, values[0], windowed)

    return micro_tile


def _emit(builder: Any, packed: Any, windowed: bool) -> Any:
    values = [builder.extract_value(packed, place) for place in range(11)]
    out, row_term, row_low, row_high = (builder.inttoptr(values[place], _I32.as_pointer()) for place in (9, 3, 5, 6))
    column_term, column_low, column_high = (builder.inttoptr(values[p], _SUMS.as_pointer()) for p in (4, 7, 8))
    terms = [_load(builder, column_term, half) for half in _HALVES]
    start = [[builder.add(_spread(builder, row_term, row), term) for term in terms] for row in range(ROWS)]
    sums = _products(builder, values[:3], start)
    store, end = builder.append_basic_block(), builder.append_basic_block()
    bounds = (row_low, row_high), (column_low, column_high)
    found = _hits(builder, sums, *bounds) if windowed else _tops(builder, sums, row_low, column_low)
    some = builder.icmp_unsigned("!=", builder.bitcast(found, ir.IntType(_LANES)), ir.IntType(_LANES)(0))
    builder.cbranch(some, store, end)
    builder.position_at_end(store)
    masks = builder.inttoptr(values[10], ir.IntType(COLUMNS).as_pointer())
    for row in range(ROWS):
        marks = []
        for half in _HALVES:
            at = builder.gep(out, [_I64(row * COLUMNS + half * _LANES)])
            builder.store(sums[row][half], builder.bitcast(at, _SUMS.as_pointer()), align=4)
            marks.append(_mark(builder, sums[row][half], row, half, bounds, windowed))
        both = builder.shuffle_vector(*marks, ir.Constant(_SIXTEEN, list(range(COLUMNS))))
        builder.store(builder.bitcast(both, ir.IntType(COLUMNS)), builder.gep(masks, [_I64(row)]))
    builder.branch(end)
    builder.position_at_end(end)
    return some


def _products(builder: Any, factors: Any, start: Any) -> Any:
    """ROWS x 2 vectors of sums, from those at the start: the builder is left where they are complete.

    The factors are two addresses and the number of pairs.
    """
    left, right = (builder.inttoptr(factors[side], of.as_pointer()) for side, of in enumerate((_I32, _FACTORS)))
    multiply = builder.module.declare_intrinsic(
        "llvm.x86.avx2.pmadd.wd", (), ir.FunctionType(_SUMS, [_FACTORS, _FACTORS])
    )
    entry, loop, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_I64)
    step.add_incoming(_I64(0), entry)
    sums = [[builder.phi(_SUMS) for _ in _HALVES] for _ in range(ROWS)]
    columns = [_load(builder, right, half, builder.mul(step, _I64(len(_HALVES)))) for half in _HALVES]
    for row in range(ROWS):
        at = builder.add(_I64(row), builder.mul(_I64(ROWS), step))
        factor = builder.bitcast(_spread(builder, left, 0, at), _FACTORS)
        for half in _HALVES:
            total = builder.add(sums[row][half], builder.call(multiply, [factor, columns[half]]))
            sums[row][half].add_incoming(start[row][half], entry)
            sums[row][half].add_incoming(total, loop)
            sums[row][half] = total
    following = builder.add(step, _I64(1))
    step.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, factors[2]), loop, done)
    builder.position_at_end(done)
    return sums


def _tops(builder: Any, sums: Any, row_low: Any, column_low: Any) -> Any:
    """In some lane, whether the greatest score of any row, or of any column, is above its bound."""
    rows = [
        builder.icmp_signed(">", _greatest(builder, row), _spread(builder, row_low, at)) for at, row in enumerate(sums)
    ]
    columns = [
        builder.icmp_signed(">", _greatest(builder, column), _load(builder, column_low, at))
        for at, column in enumerate(zip(*sums))
    ]
    return reduce(builder.or_, rows + columns)


def _hits(builder: Any, sums: Any, of_rows: Any, of_columns: Any) -> Any:
    """In some lane, whether any score lies between the bounds of its row, or of its column."""
    bounds = of_rows, of_columns
    marks = [
        _mark(builder, score, row, half, bounds, True)
        for row, both in enumerate(sums)
        for half, score in enumerate(both)
    ]
    return reduce(builder.or_, marks)


def _mark(builder: Any, scores: Any, row: int, half: int, bounds: Any, windowed: bool) -> Any:
    """Which scores lie between the bounds of their row, or of their column."""
    (row_low, row_high), (column_low, column_high) = bounds
    sides = [(_spread(builder, row_low, row), row_high), (_load(builder, column_low, half), column_high)]
    marks = []
    for (low, highs), read, at in zip(sides, (_spread, _load), (row, half)):
        above = builder.icmp_signed(">", scores, low)
        if windowed:
            above = builder.and_(above, builder.icmp_signed("<", scores, read(builder, highs, at)))
        marks.append(above)
    return builder.or_(*marks)


def _greatest(builder: Any, scores: Any) -> Any:
    return reduce(lambda a, b: builder.select(builder.icmp_signed(">", a, b), a, b), scores)


def _load(builder: Any, pointer: Any, place: int, offset: Any = None) -> Any:
    at = _I64(place) if offset is None else builder.add(offset, _I64(place))
    return builder.load(builder.gep(pointer, [at]), align=4)


def _spread(builder: Any, pointer: Any, place: int, offset: Any = None) -> Any:
    """An int32 in every lane."""
    one = builder.insert_element(ir.Constant(_SUMS, ir.Undefined), _load(builder, pointer, place, offset), _I32(0))
    return builder.shuffle_vector(one, ir.Constant(_SUMS, ir.Undefined), ir.Constant(_SUMS, [0] * _LANES))


@intrinsic
def lowest(typing: Any, mask: Any) -> Any:
    """The place of the lowest bit that is set."""
    return types.int64(types.int64), lambda context, builder, sign, values: builder.cttz(values[0], ir.IntType(1)(1))


plain, windowed = _micro_tile(False), _micro_tile(True)
