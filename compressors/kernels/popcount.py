"""Integer products of packed planes, by AND, XOR and popcount, or by byte dot products.

A tile of ``MR`` rows (pixels, vectors, queries) by ``NR`` times 16 outputs is kept in vector registers while the words
of all plane pairs stream by. The micro-kernel is emitted as vector code of LLVM, so that it is the same on every
machine with wide registers, and so is what follows a tile; the loops around them are plain Numba.

Three operations share it:

* ``masked``: a weight is -1, 0 or 1, written as a mask ``M`` and a sign ``S`` within the mask; with an input bit ``A``
  the sum of products is ``popc(M & (A ^ S)) - popc(S)``, and the second part is a constant of the output;
* ``xor``: a weight is -1 or 1; the same without a mask, and the Hamming distance of two vectors;
* ``bytes``: four unsigned input bytes times four signed weight bytes at a time, where the machine can.

Weights and inputs of more bits are several planes; the sum over all pairs of planes follows Horner's rule, from the
most significant pair down, with a shift in between.

Layouts (see ``compressors.kernels.layout``): inputs are read as 32-bit words from any byte on; weights lie in panels
``[plane][block][word][NR][mask, sign][16 outputs]`` of 32-bit words.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

from functools import cache

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Outputs side by side in a vector."""

MASKED, XOR, BYTES, MASKED_NARROW, XOR_NARROW, MASKED_PLAIN, XOR_PLAIN, BYTES_PLAIN = range(8)
"""Operations; the narrow ones count in bytes, for machines that count no 32-bit words at once, and the plain ones are
loops over single words, to be read and to be compared with."""

_NARROW = {MASKED: MASKED_NARROW, XOR: XOR_NARROW}
_PLAIN = {MASKED: MASKED_PLAIN, XOR: XOR_PLAIN, BYTES: BYTES_PLAIN}

NO_CODES, PLANES, CODE_BYTES, SUMS = range(4)
"""What becomes of results: nothing more, bits of the next layer's planes, or its bytes; or sums alone, as int32."""

NARROW_PIXEL = 8
"""Channels up to which a pixel of bytes is written byte by byte, and not padded to 16."""

_I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
_VECTOR = ir.VectorType(_I32, LANES)
_WIDE = ir.VectorType(_I8, 4 * LANES)
_LONG = ir.VectorType(_I64, LANES)
_LARGEST = (1 << 31) - 1
_FLUSH = 31  # words that 8-bit counters hold: 31 * 8 < 256
_DOT_TAKES_BYTES = llvmlite.binding.llvm_version_info[0] >= 21  # the operands' type in LLVM


def variant(op: int, family: str) -> int:
    """The form of ``MASKED``, ``XOR`` or ``BYTES`` that a family of kernels has (see ``machine.kernels``)."""
    if family == "portable":
        return _NARROW.get(op, _PLAIN[op])
    return op if family == "avx512" else _PLAIN[op]


def _splat(builder, value, vector):  # type: ignore[no-untyped-def]
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, mask)


def _constant(value):  # type: ignore[no-untyped-def]
    return ir.Constant(_VECTOR, [value] * LANES)


def _zeros(vector):  # type: ignore[no-untyped-def]
    return ir.Constant(vector, [0] * vector.count)


def _whole(value):  # type: ignore[no-untyped-def]
    return ir.Constant(_I64, value)


def _clamp(builder, values, low, high):  # type: ignore[no-untyped-def]
    values = builder.select(builder.icmp_signed("<", values, low), low, values)
    return builder.select(builder.icmp_signed(">", values, high), high, values)


def _load(builder, address, kind, align=1):  # type: ignore[no-untyped-def]
    pointer = builder.inttoptr(address, kind.as_pointer())
    loaded = builder.load(pointer)
    loaded.align = align
    return loaded


def _store(builder, value, address, align=1):  # type: ignore[no-untyped-def]
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def _population(builder, value):  # type: ignore[no-untyped-def]
    name = f"llvm.ctpop.v{value.type.count}i{value.type.element.width}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(value.type, [value.type]), name)
    return builder.call(function, [value])


def _dot(builder, total, inputs, weights):  # type: ignore[no-untyped-def]
    operand = _WIDE if _DOT_TAKES_BYTES else _VECTOR
    kind = ir.FunctionType(_VECTOR, [_VECTOR, operand, operand])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
    if _DOT_TAKES_BYTES:
        inputs, weights = (builder.bitcast(v, _WIDE) for v in (inputs, weights))
    return builder.call(function, [total, inputs, weights])


def _sum_bytes(builder, counts):  # type: ignore[no-untyped-def]
    """The four 8-bit counters of each 32-bit lane, added up."""
    words = builder.bitcast(counts, _VECTOR)
    even = builder.and_(words, _constant(0x00FF00FF))
    odd = builder.and_(builder.lshr(words, _constant(8)), _constant(0x00FF00FF))
    pairs = builder.add(even, odd)
    return builder.add(builder.and_(pairs, _constant(0xFFFF)), builder.lshr(pairs, _constant(16)))


@intrinsic(prefer_literal=True)
def _tile(  # type: ignore[no-untyped-def]
    typingctx, mr, nr, op, inputs, places, offsets, segments, words, weights, pairs, count, out
):
    """One tile of sums: ``int32 [MR, NR, 16]`` to the address ``out``.

    Args:
        mr, nr, op: literals.
        inputs: address of the inputs.
        places: address of ``int64 [MR]``, where each row begins, in bytes.
        offsets: address of ``int64 [segments]``, where each run of words begins, from there, in bytes.
        segments, words: runs, and words in each.
        weights: address of the block's panels.
        pairs: address of ``int64 [count, 3]``: shift of the sums before, and bytes to the input and weight plane.
        count: of plane pairs.
    """
    literals = (mr, nr, op)
    if not all(isinstance(value, types.IntegerLiteral) for value in literals):
        return None
    rows, vectors, operation = (value.literal_value for value in literals)
    masked = operation in (MASKED, MASKED_NARROW)
    narrow = operation in (MASKED_NARROW, XOR_NARROW)
    step = vectors * (2 if masked else 1) * 4 * LANES

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        inputs, places, offsets, segments, words, weights, pairs, count, out = args[3:]
        wide = lambda value: ir.Constant(_I64, value)  # noqa: E731
        grid = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(vectors)] for _ in range(rows)]
        small = [[cgutils.alloca_once(builder, _WIDE) for _ in range(vectors)] for _ in range(rows)]
        for row in grid:
            for total in row:
                builder.store(_constant(0), total)
        starts = [
            builder.add(inputs, _load(builder, builder.add(places, wide(8 * m)), _I64)) for m in range(rows)
        ]
        panel = cgutils.alloca_once(builder, _I64)

        def word(k, bases):  # type: ignore[no-untyped-def]
            """Let one word of every row pass by the weights it meets."""
            at = builder.load(panel)
            builder.store(builder.add(at, wide(step)), panel)
            parts = step // (4 * LANES)
            loaded = [_load(builder, builder.add(at, wide(4 * LANES * i)), _VECTOR) for i in range(parts)]
            shift = builder.shl(k, wide(2))
            for m in range(rows):
                bits = _splat(builder, _load(builder, builder.add(bases[m], shift), _I32), _VECTOR)
                for n in range(vectors):
                    if operation == BYTES:
                        total = _dot(builder, builder.load(grid[m][n]), bits, loaded[n])
                        builder.store(total, grid[m][n])
                        continue
                    sign = loaded[2 * n + 1] if masked else loaded[n]
                    met = builder.xor(bits, sign)
                    if masked:
                        met = builder.and_(met, loaded[2 * n])
                    if narrow:
                        met = builder.bitcast(met, _WIDE)
                    place = small[m][n] if narrow else grid[m][n]
                    builder.store(builder.add(builder.load(place), _population(builder, met)), place)

        def flush():  # type: ignore[no-untyped-def]
            for m in range(rows):
                for n in range(vectors):
                    total = _sum_bytes(builder, builder.load(small[m][n]))
                    builder.store(builder.add(builder.load(grid[m][n]), total), grid[m][n])

        def run(bases):  # type: ignore[no-untyped-def]
            """All words of a segment, in stretches that narrow counters can hold."""
            if not narrow:
                with cgutils.for_range(builder, words) as loop:
                    word(loop.index, bases)
                return
            stretches = builder.udiv(builder.add(words, wide(_FLUSH - 1)), wide(_FLUSH))
            with cgutils.for_range(builder, stretches) as outer:
                first = builder.mul(outer.index, wide(_FLUSH))
                left = builder.sub(words, first)
                length = builder.select(builder.icmp_signed("<", left, wide(_FLUSH)), left, wide(_FLUSH))
                for row in small:
                    for counts in row:
                        builder.store(ir.Constant(_WIDE, [0] * _WIDE.count), counts)
                with cgutils.for_range(builder, length) as inner:
                    word(builder.add(first, inner.index), bases)
                flush()

        with cgutils.for_range(builder, count) as pair:
            entry = builder.add(pairs, builder.mul(pair.index, wide(24)))
            shift, input_plane, weight_plane = (
                _load(builder, builder.add(entry, wide(8 * i)), _I64) for i in range(3)
            )
            by = _splat(builder, builder.trunc(shift, _I32), _VECTOR)
            for row in grid:
                for total in row:
                    builder.store(builder.shl(builder.load(total), by), total)
            builder.store(builder.add(weights, weight_plane), panel)
            with cgutils.for_range(builder, segments) as segment:
                offset = _load(builder, builder.add(offsets, builder.shl(segment.index, wide(3))), _I64)
                offset = builder.add(offset, input_plane)
                run([builder.add(start, offset) for start in starts])
        for m in range(rows):
            for n in range(vectors):
                at = builder.add(out, wide(4 * LANES * (m * vectors + n)))
                _store(builder, builder.load(grid[m][n]), at)
        return context.get_dummy_value()

    return types.void(*(*literals, *[types.int64] * 9)), codegen


def _put_codes(builder, values, again, settings, out):  # type: ignore[no-untyped-def]
    """Sixteen ``<16 x i64>`` values as codes, see ``product_kernel``; ``again`` and ``settings`` are addresses or 0."""
    number = lambda address, i: _load(builder, builder.add(address, _whole(8 * i)), _I64)  # noqa: E731
    kept = cgutils.alloca_once_value(builder, values)
    with builder.if_then(builder.icmp_unsigned("!=", again, _whole(0))):
        factor, offset, shift = (_splat(builder, number(again, i), _LONG) for i in range(3))
        moved = builder.add(builder.mul(values, factor), offset)
        builder.store(builder.ashr(moved, shift), kept)
    top = _splat(builder, number(settings, 1), _LONG)
    codes = builder.trunc(_clamp(builder, builder.load(kept), _zeros(_LONG), top), _VECTOR)
    _write_codes(builder, codes, settings, out)


def _write_codes(builder, codes, settings, out):  # type: ignore[no-untyped-def]
    """Sixteen ``int32`` codes in range, to planes or bytes."""
    number = lambda address, i: _load(builder, builder.add(address, _whole(8 * i)), _I64)  # noqa: E731
    planes = builder.icmp_unsigned("==", number(settings, 0), _whole(PLANES))
    with builder.if_else(planes) as (then, otherwise):
        with then, cgutils.for_range(builder, number(settings, 4)) as loop:
            one = builder.shl(ir.Constant(_I32, 1), builder.trunc(loop.index, _I32))
            bits = builder.and_(codes, _splat(builder, one, _VECTOR))
            word = builder.bitcast(builder.icmp_unsigned("!=", bits, _constant(0)), _I16)
            _store(builder, word, builder.add(out, builder.mul(loop.index, number(settings, 3))))
        with otherwise:
            small = builder.trunc(codes, ir.VectorType(_I8, LANES))
            channels = number(settings, 2)
            with builder.if_else(builder.icmp_signed("<=", channels, _whole(NARROW_PIXEL))) as (few, many):
                with few, cgutils.for_range(builder, channels) as loop:
                    code = builder.extract_element(small, builder.trunc(loop.index, _I32))
                    _store(builder, code, builder.add(out, loop.index))
                with many:
                    _store(builder, small, out)


@intrinsic
def _finish(  # type: ignore[no-untyped-def]
    typingctx, tile, tile_bytes, terms, gains, factors, term_bytes, constants, shift, digits, digit_count,
    thresholds, levels, low, high, shortcut, stream, again, settings, out,
):  # fmt: skip
    """What follows the sums of 16 outputs of one row, see ``product_kernel``; addresses, 0 for what there is not.

    ``tile_bytes``: from a term's sums to the next; ``term_bytes``: from one term's factors (int32) to the next, and
    from one row of the tables ``digits`` and ``thresholds`` to the next.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (tile, tile_bytes, terms, gains, factors, term_bytes, constants, shift, digits, digit_count,
         thresholds, levels, low, high, shortcut, stream, again, settings, out) = args  # fmt: skip
        there = lambda address: builder.icmp_unsigned("!=", address, _whole(0))  # noqa: E731
        values = cgutils.alloca_once(builder, _LONG)
        counts = cgutils.alloca_once(builder, _VECTOR)

        def scale():  # type: ignore[no-untyped-def]
            builder.store(_load(builder, constants, _LONG), values)
            with cgutils.for_range(builder, terms) as loop:
                sums = _load(builder, builder.add(tile, builder.mul(loop.index, tile_bytes)), _VECTOR)
                gain = _load(builder, builder.add(gains, builder.shl(loop.index, _whole(3))), _I64)
                sums = builder.shl(sums, _splat(builder, builder.trunc(gain, _I32), _VECTOR))
                wide = builder.sext(sums, _LONG)
                row = builder.mul(loop.index, term_bytes)
                with builder.if_else(there(digits)) as (then, otherwise):
                    with then:
                        by_digits(wide, loop.index)
                    with otherwise:
                        factor = builder.sext(_load(builder, builder.add(factors, row), _VECTOR), _LONG)
                        total = builder.add(builder.load(values), builder.mul(wide, factor))
                        builder.store(total, values)
            builder.store(builder.ashr(builder.load(values), _splat(builder, shift, _LONG)), values)

        def by_digits(wide, term):  # type: ignore[no-untyped-def]
            first = builder.mul(term, builder.mul(digit_count, _whole(3)))
            with cgutils.for_range(builder, digit_count) as loop:
                row = builder.add(first, builder.mul(loop.index, _whole(3)))
                parts = [
                    builder.add(digits, builder.mul(builder.add(row, _whole(i)), term_bytes))
                    for i in range(3)
                ]
                by, sign, mask = (builder.sext(_load(builder, part, _VECTOR), _LONG) for part in parts)
                moved = builder.sub(builder.xor(builder.shl(wide, by), sign), sign)
                builder.store(builder.add(builder.load(values), builder.and_(moved, mask)), values)

        def compare():  # type: ignore[no-untyped-def]
            """Codes at once: as many as bounds are reached."""
            builder.store(_constant(0), counts)
            sums = _load(builder, tile, _VECTOR)
            with cgutils.for_range(builder, levels) as loop:
                bound = _load(builder, builder.add(thresholds, builder.mul(loop.index, term_bytes)), _VECTOR)
                passed = builder.zext(builder.icmp_signed(">=", sums, bound), _VECTOR)
                builder.store(builder.add(builder.load(counts), passed), counts)
            _write_codes(builder, builder.load(counts), settings, out)

        def whole(kind):  # type: ignore[no-untyped-def]
            scale()
            with builder.if_then(there(shortcut)):
                builder.store(builder.add(builder.load(values), _load(builder, shortcut, _LONG)), values)
            bounds = (_splat(builder, bound, _LONG) for bound in (low, high))
            result = _clamp(builder, builder.load(values), *bounds)
            with builder.if_then(there(stream)):
                _store(builder, result, stream)
            with builder.if_then(builder.icmp_unsigned("!=", kind, _whole(NO_CODES))):
                _put_codes(builder, result, again, settings, out)

        with builder.if_else(there(thresholds)) as (then, otherwise):
            with then:
                compare()
            with otherwise:
                whole(_load(builder, settings, _I64))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 19), codegen


@intrinsic(prefer_literal=True)
def _put_sums(typingctx, mr, nr, tile, gain, constants, constant_places, out, out_places):  # type: ignore[no-untyped-def]
    """A tile of sums from the address ``tile``, shifted and offset, as int32 to ``out``.

    ``mr``, ``nr`` are literals; ``constant_places``, ``out_places``: addresses of ``int64 [MR]``, where each row's
    constants and results begin, in bytes.
    """
    if not all(isinstance(value, types.IntegerLiteral) for value in (mr, nr)):
        return None
    rows, vectors = mr.literal_value, nr.literal_value

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        tile, gain, constants, constant_places, out, out_places = args[2:]
        by = _splat(builder, builder.trunc(gain, _I32), _VECTOR)
        for m in range(rows):
            place = lambda places, m=m: _load(builder, builder.add(places, _whole(8 * m)), _I64)  # noqa: E731
            offset, target = (
                builder.add(constants, place(constant_places)),
                builder.add(out, place(out_places)),
            )
            for n in range(vectors):
                at = 4 * LANES * n
                sums = _load(builder, builder.add(tile, _whole(4 * LANES * vectors * m + at)), _VECTOR)
                wide = _load(builder, builder.add(offset, _whole(2 * at)), _LONG)
                moved = builder.add(builder.shl(sums, by), builder.trunc(wide, _VECTOR))
                _store(builder, moved, builder.add(target, _whole(at)))
        return context.get_dummy_value()

    return types.void(mr, nr, *[types.int64] * 6), codegen


@intrinsic
def _recode(typingctx, source, again, settings, out):  # type: ignore[no-untyped-def]
    """Sixteen int64 at the address ``source`` as codes, see ``_put_codes``."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, again, settings, out = args
        _put_codes(builder, _load(builder, source, _LONG), again, settings, out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def _popcount(typingctx, word):  # type: ignore[no-untyped-def]
    """Ones of one uint32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.uint32(types.uint32), codegen


@njit(cache=True, nogil=True)
def _plain_tile(mr, nr, op, inputs, places, row, offsets, words, weights, panel, pairs, tile):  # type: ignore[no-untyped-def]
    """What ``_tile`` computes, in loops; ``panel`` is the byte at which the block's panels begin."""
    parts = 2 if op == MASKED_PLAIN else 1
    step = nr * parts * 4 * LANES
    for m in range(mr):
        for n in range(nr * LANES):
            lane = panel + n // LANES * parts * 4 * LANES + n % LANES * 4
            total = np.int32(0)
            for p in range(pairs.shape[0]):
                total <<= np.int32(pairs[p, 0])
                at = lane + pairs[p, 2]
                for s in range(offsets.shape[0]):
                    start = places[row + m] + offsets[s] + pairs[p, 1]
                    for w in range(words):
                        bits, mask, sign = np.uint32(0), np.uint32(0), np.uint32(0)
                        for b in range(4):
                            a, first = inputs[start + 4 * w + b], weights[at + b]
                            if op == BYTES_PLAIN:
                                total += np.int32(a) * np.int32(np.int8(first))
                            bits |= np.uint32(a) << np.uint32(8 * b)
                            mask |= np.uint32(first) << np.uint32(8 * b)
                            if op == MASKED_PLAIN:
                                sign |= np.uint32(weights[at + 4 * LANES + b]) << np.uint32(8 * b)
                        if op == MASKED_PLAIN:
                            total += np.int32(_popcount(mask & (bits ^ sign)))
                        elif op == XOR_PLAIN:
                            total += np.int32(_popcount(bits ^ mask))
                        at += step
            tile[m, n] = total


@cache
def product_kernel(mr: int, nr: int, op: int):  # type: ignore[no-untyped-def]
    """A compiled product, and what follows it, for tiles of ``mr`` rows and ``nr`` vectors of outputs.

    ``kernel(inputs, places, offsets, words, weights, block_bytes, pairs, terms, gains, factors, constants, which,
    shift, low, high, digits, thresholds, shortcut, stream, again, codes, out_places, settings, first, last)`` computes,
    for the row tiles ``first`` to ``last`` (the last one overlaps the one before it where the rows do not divide),

        ``v[r, n] = (sum_t (sums[t, r, n] << gains[t]) * factors[t, n] + constants[which[r], n]) >> shift``

    (``factors`` int32, ``constants`` int64), then adds ``shortcut[r, n]``, clamps to ``low`` and ``high`` and keeps
    ``v`` in ``stream`` (int64 ``[rows, N]`` each, or without rows where there is none). ``settings``: kind of codes,
    their largest, channels, bytes to the next plane, planes. For codes, ``(v * again[0] + again[1]) >> again[2]`` goes
    to the buffer ``codes`` at ``out_places[r]``; ``again`` is empty where ``v`` is the code itself. The kind ``SUMS``
    writes ``(sums[0, r, n] << gains[0]) + constants`` there as int32, and does nothing else.

    Two ways to the same numbers without multiplication, used where they are given: ``digits [terms, digits, 3, N]``,
    the factors' signed digits, and ``thresholds [levels, N]`` of the sums, for a single term that ends as codes; int32.

    ``inputs`` and ``weights`` are bytes, ``pairs`` those of all terms with ``terms[t]`` the first of term ``t``; see
    ``_tile``.
    """
    plain = op >= MASKED_PLAIN

    @njit(cache=True, nogil=True)
    def kernel(  # type: ignore[no-untyped-def]
        inputs, places, offsets, words, weights, block_bytes, pairs, terms, gains, factors, constants, which, shift,
        low, high, digits, thresholds, shortcut, stream, again, codes, out_places, settings, first, last,
    ):  # fmt: skip
        rows, width, count = places.shape[0], nr * LANES, factors.shape[0]
        tile, kinds = np.empty((count, mr, width), np.int32), np.empty(mr, np.int64)
        padded, channels = factors.shape[1], settings[2]
        bits = 1 if settings[0] == PLANES else 8
        for block in range(padded // width):
            begin = block * width
            used = min(width, (channels - begin + LANES - 1) // LANES * LANES)
            for r in range(first, last):
                row = max(0, min(r * mr, rows - mr))
                for t in range(count):
                    if plain:
                        _plain_tile(
                            mr, nr, op, inputs, places, row, offsets, words, weights, block * block_bytes,
                            pairs[terms[t] : terms[t + 1]], tile[t],
                        )  # fmt: skip
                    else:
                        _tile(
                            mr, nr, op, inputs.ctypes.data, places.ctypes.data + 8 * row, offsets.ctypes.data,
                            offsets.shape[0], words, weights.ctypes.data + block * block_bytes,
                            pairs.ctypes.data + 24 * terms[t], terms[t + 1] - terms[t],
                            tile.ctypes.data + 4 * t * mr * width,
                        )  # fmt: skip
                if settings[0] == SUMS:
                    for m in range(mr):
                        kinds[m] = 8 * padded * which[row + m] if which.shape[0] else 0
                    _put_sums(
                        mr, nr, tile.ctypes.data, gains[0], constants.ctypes.data + 8 * begin, kinds.ctypes.data,
                        codes.ctypes.data + 4 * begin, out_places.ctypes.data + 8 * row,
                    )  # fmt: skip
                    continue
                for m in range(mr):
                    at = row + m
                    kind = which[at] if which.shape[0] else 0
                    place = out_places[at] if settings[0] != NO_CODES else 0
                    for g in range(0, used, LANES):
                        n = begin + g
                        _finish(
                            tile.ctypes.data + 4 * (m * width + g), 4 * mr * width, count, gains.ctypes.data,
                            factors.ctypes.data + 4 * n, 4 * padded,
                            constants.ctypes.data + 8 * (kind * padded + n), shift,
                            digits.ctypes.data + 4 * n if digits.size else 0, digits.shape[1],
                            thresholds.ctypes.data + 4 * n if thresholds.size else 0, thresholds.shape[0],
                            low, high,
                            shortcut.ctypes.data + 8 * (at * shortcut.shape[1] + n) if shortcut.size else 0,
                            stream.ctypes.data + 8 * (at * stream.shape[1] + n) if stream.size else 0,
                            again.ctypes.data if again.size else 0,
                            settings.ctypes.data,
                            codes.ctypes.data + place + n * bits // 8,
                        )  # fmt: skip

    return kernel


@njit(cache=True, nogil=True)
def requantize(stream, again, codes, out_places, settings):  # type: ignore[no-untyped-def]
    """Codes of a stream ``int64 [rows, N]``, as the product kernels make them of their own values."""
    per_byte = 8 if settings[0] == PLANES else 1
    for row in range(stream.shape[0]):
        for n in range(0, stream.shape[1], LANES):
            source = stream.ctypes.data + 8 * (row * stream.shape[1] + n)
            out = codes.ctypes.data + out_places[row] + n // per_byte
            _recode(source, again.ctypes.data, settings.ctypes.data, out)


@njit(cache=True, nogil=True)
def quantize(images, scale, low, codes, out_places, settings):  # type: ignore[no-untyped-def]
    """Codes of float32 ``images [batch, channels, pixels]`` on a grid from ``low`` on, the only floats read.

    What lies beyond the grid takes its end; no image may be NaN.
    """
    batch, channels, pixels = images.shape
    width = (channels + LANES - 1) // LANES * LANES
    values = np.zeros(width, np.int64)
    per_byte, top = 8 if settings[0] == PLANES else 1, np.float32(low + settings[1])
    for b in range(batch):
        for p in range(pixels):
            for c in range(channels):
                near = min(max(np.rint(images[b, c, p] / scale), np.float32(low)), top)
                values[c] = np.int64(near) - low
            out = codes.ctypes.data + out_places[b * pixels + p]
            for n in range(0, width, LANES):
                _recode(values.ctypes.data + 8 * n, 0, settings.ctypes.data, out + n // per_byte)


@njit(cache=True, nogil=True)
def depthwise(inputs, places, offsets, masks, signs, exponents, source, totals):  # type: ignore[no-untyped-def]
    """Sums of products where each output reads few channels: shifts and adds of bytes, no popcount.

    Args:
        inputs: bytes; places: ``int64 [rows]``; offsets: ``int64 [taps]``, of the filter's pixels.
        masks, signs: ``int64 [planes, taps, depth, N]``, 0 or -1: where a weight has the bit, and is negative.
        exponents: ``int64 [planes]``.
        source: ``int64 [N]``, first input channel of each output.
        totals: ``int64 [rows, N]``, filled.
    """
    for row in range(places.shape[0]):
        sums = totals[row]
        sums[:] = 0
        for tap in range(offsets.shape[0]):
            start = places[row] + offsets[tap]
            for d in range(masks.shape[2]):
                for p in range(exponents.shape[0]):
                    mask, sign, by = masks[p, tap, d], signs[p, tap, d], exponents[p]
                    for n in range(sums.shape[0]):
                        code = np.int64(inputs[start + source[n] + d])
                        sums[n] += (((code ^ sign[n]) - sign[n]) & mask[n]) << by


@cache
def search_kernel(mr: int, nr: int, op: int):  # type: ignore[no-untyped-def]
    """A compiled search for the rows of a database with the smallest keys, for tiles of ``mr`` queries.

    ``kernel(inputs, places, words, weights, block_bytes, pairs, sign, offsets, start, keys, rows, first, last)`` goes
    through the blocks ``first`` to ``last`` of the database and keeps, per query, the smallest of
    ``sign * sums + offsets[row]`` in ``keys: int32 [queries, k]``, in order, with their rows (from ``start`` on) in
    ``rows: int64 [queries, k]``; of equal keys the row that came first stays. Other arguments as in ``product_kernel``.
    """
    plain = op >= MASKED_PLAIN

    @njit(cache=True, nogil=True)
    def kernel(  # type: ignore[no-untyped-def]
        inputs, places, words, weights, block_bytes, pairs, sign, offsets, start, keys, rows, first, last
    ):
        queries, width, k = places.shape[0], nr * LANES, keys.shape[1]
        tile, zero = np.empty((mr, width), np.int32), np.zeros(1, np.int64)
        for block in range(first, last):
            offset = offsets[block * width : (block + 1) * width]
            for q in range(0, queries, mr):
                query = max(0, min(q, queries - mr))
                if plain:
                    _plain_tile(
                        mr,
                        nr,
                        op,
                        inputs,
                        places,
                        query,
                        zero,
                        words,
                        weights,
                        block * block_bytes,
                        pairs,
                        tile,
                    )
                else:
                    _tile(
                        mr, nr, op, inputs.ctypes.data, places.ctypes.data + 8 * query, zero.ctypes.data, 1, words,
                        weights.ctypes.data + block * block_bytes, pairs.ctypes.data, pairs.shape[0], tile.ctypes.data,
                    )  # fmt: skip
                for m in range(q - query, mr):  # queries before were in the tile that this one overlaps
                    own, best, which = tile[m], keys[query + m], rows[query + m]
                    least = np.int32(_LARGEST)
                    for n in range(width):  # nearly always nothing is near enough
                        own[n] = sign * own[n] + offset[n]
                        least = min(least, own[n])
                    if least >= best[k - 1]:
                        continue
                    for n in range(width):
                        if own[n] >= best[k - 1]:
                            continue
                        place = k - 1
                        while place > 0 and best[place - 1] > own[n]:
                            best[place], which[place] = best[place - 1], which[place - 1]
                            place -= 1
                        best[place], which[place] = own[n], start + block * width + n

    return kernel
