"""Integer scores of a few rows by a few columns, in registers of AVX2 or AVX-512, in LLVM's language.

Rows rounded to int16 have integer scores, without any further error: one instruction multiplies pairs of factors and
adds them two by two (with VNNI, to the sums as well: LLVM finds that by itself). The sums of a tile, the columns and a
row fill the registers. The scores are compared there with what each anchor needs, so that hardly any is ever written.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic


@dataclass(frozen=True, slots=True)
class Tile:
    """How many scores are summed at a time, and how.

    Attributes:
        rows, columns: of scores; both divide 48.
        lanes: int32 of a register.
        multiply: LLVM's name for the products of int16 pairs.
    """

    rows: int
    columns: int
    lanes: int
    multiply: str


_TILES = {  # by the feature of a processor that they need, best first
    "+avx512bw": Tile(8, 48, 16, "llvm.x86.avx512.pmaddw.d.512"),  # 24 sums in 32 registers
    "+avx2": Tile(6, 16, 8, "llvm.x86.avx2.pmadd.wd"),  # 12 in 16
}


def _features() -> list[str]:
    """Of numba's own target: NUMBA_CPU_NAME=generic and the like narrow what the processor could do."""
    target: Any = cpu_target.target_context  # a property to numba, whose type a checker cannot tell
    return target.codegen().magic_tuple()[2].split(",")


_CHOSEN = [tile for feature, tile in _TILES.items() if feature in _features()]
HAS_PRODUCTS = bool(_CHOSEN)
"""Whether the compiler makes code for a processor with such an instruction."""

_TILE = (_CHOSEN or list(_TILES.values()))[0]
PANELS = ROWS, COLUMNS = _TILE.rows, _TILE.columns
"""Rows of an int16 table that stand together, as left and as right factors."""

_LANES = _TILE.lanes
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_SUMS, _FACTORS = ir.VectorType(_I32, _LANES), ir.VectorType(ir.IntType(16), 2 * _LANES)
_PARTS = range(COLUMNS // _LANES)


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
    terms = [_load(builder, column_term, part) for part in _PARTS]
    start = [[builder.add(_spread(builder, row_term, row), term) for term in terms] for row in range(ROWS)]
    sums = _products(builder, values[:3], start)
    store, end = builder.append_basic_block(), builder.append_basic_block()
    bounds = (row_low, row_high), (column_low, column_high)
    found = _hits(builder, sums, *bounds) if windowed else _tops(builder, sums, row_low, column_low)
    some = builder.icmp_unsigned("!=", builder.bitcast(found, ir.IntType(_LANES)), ir.IntType(_LANES)(0))
    builder.cbranch(some, store, end)
    builder.position_at_end(store)
    masks = builder.inttoptr(values[10], _I64.as_pointer())
    for row in range(ROWS):
        marks = []
        for part in _PARTS:
            at = builder.gep(out, [_I64(row * COLUMNS + part * _LANES)])
            builder.store(sums[row][part], builder.bitcast(at, _SUMS.as_pointer()), align=4)
            mark = builder.bitcast(_mark(builder, sums[row][part], row, part, bounds, windowed), ir.IntType(_LANES))
            marks.append(builder.shl(builder.zext(mark, _I64), _I64(part * _LANES)))
        builder.store(reduce(builder.or_, marks), builder.gep(masks, [_I64(row)]))
    builder.branch(end)
    builder.position_at_end(end)
    return some


def _products(builder: Any, factors: Any, start: Any) -> Any:
    """ROWS vectors of sums, each in parts, from those at the start: the builder is left where they are complete.

    The factors are two addresses and the number of pairs.
    """
    left, right = (builder.inttoptr(factors[side], of.as_pointer()) for side, of in enumerate((_I32, _FACTORS)))
    multiply = builder.module.declare_intrinsic(_TILE.multiply, (), ir.FunctionType(_SUMS, [_FACTORS, _FACTORS]))
    entry, loop, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_I64)
    step.add_incoming(_I64(0), entry)
    sums = [[builder.phi(_SUMS) for _ in _PARTS] for _ in range(ROWS)]
    columns = [_load(builder, right, part, builder.mul(step, _I64(len(_PARTS)))) for part in _PARTS]
    for row in range(ROWS):
        at = builder.add(_I64(row), builder.mul(_I64(ROWS), step))
        factor = builder.bitcast(_spread(builder, left, 0, at), _FACTORS)
        for part in _PARTS:
            total = builder.add(sums[row][part], builder.call(multiply, [factor, columns[part]]))
            sums[row][part].add_incoming(start[row][part], entry)
            sums[row][part].add_incoming(total, loop)
            sums[row][part] = total
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
        _mark(builder, score, row, part, bounds, True)
        for row, parts in enumerate(sums)
        for part, score in enumerate(parts)
    ]
    return reduce(builder.or_, marks)


def _mark(builder: Any, scores: Any, row: int, part: int, bounds: Any, windowed: bool) -> Any:
    """Which scores lie between the bounds of their row, or of their column."""
    (row_low, row_high), (column_low, column_high) = bounds
    sides = [(_spread(builder, row_low, row), row_high), (_load(builder, column_low, part), column_high)]
    marks = []
    for (low, highs), read, at in zip(sides, (_spread, _load), (row, part)):
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
