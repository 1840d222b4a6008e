"""Access counts of a loop nest in closed form, and the exhaustive search over tilings, compiled.

All of it stands in one file, because Numba's cache looks no further. A problem on a machine is one table ``nest`` of
nine columns, its rows named by the constants below; ``scale`` holds what depends on formats. A mapping is ``temporal
[L, 8]`` and ``spatial [A, 8]``, loop counts by level or axis and dim, and ``perms [L]``, the order each level's loops
follow. Columns of counts are weights, inputs, partial sums and final outputs. Tables instead of named tuples: handing
over a tuple of arrays costs more than most functions here.

A level's tile is what all loops at it and inside it touch. It is exchanged when a relevant loop outside turns; the
loops between it and the first relevant one turn for free. ``_walk`` follows the loops outside a tile from the
innermost outwards and counts three kinds of exchange: the first, moves to the next tile along one dim (a window
slides), and all others.
"""

from __future__ import annotations

import numpy as np
from numba import njit

RELEVANT = 0
"""Rows ``[operand]``: 1 where another index of the dim means another word."""
STEPS = 3
"""Row: dilations of rows and columns, strides, both without their common divisors; then how many levels, axes, edges,
and levels inside all axes."""
PLACE = 4
"""Row: the level directly outside each axis."""
ORDERS = 5
"""Rows: dims from the innermost loop outwards."""
LEVELS = 10
"""Rows ``[L]``: whether weights, inputs, outputs are kept; buffering; slides; then of the axes directly beneath: halo,
network; whether reads and writes share a port; order of the loops where the level lies inside an axis. Behind them a
row for each way data take: operand, inner and outer level (-1 is the elements), whether elements fill the inner one."""
KEEPS, BUFFERING, SLIDES, HALO, NETWORK, SHARED, ORDER = 0, 3, 4, 5, 6, 7, 8
NONE, BUS, SYSTOLIC, UNICAST = 0, 1, 2, 3
SINGLE, DOUBLE, STREAM = 0, 1, 2
EVERY = -1

READ, WRITE, MOVE, CAPACITY, PORTS = 0, 4, 8, 12, 13
"""Columns of ``scale [L + 1, 15]``: energy of a word read, written, passed on; bits held; bits per cycle read and
written. The last row holds the bits of a word."""

_outer = njit(cache=True, nogil=True, error_model="numpy")
_inner = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
"""For functions that make no arrays: without it they count references to those they are given, half of their time."""

_I, _O = 1, 2  # inputs, outputs
_PARTIAL, _FINAL = 2, 3  # columns of outputs
_Y = 4  # the first of the dims a window spans


@_inner
def _fill(table, value):
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            table[i, j] = value


@_inner
def _clear(counts):
    for i in range(3):
        for level in range(counts.shape[1]):
            for column in range(4):
                counts[i, level, column] = 0.0


@_inner
def _words(nest, operand, size):
    """Distinct words of a block of loops ``size [8]``."""
    if operand == 0:
        return float(size[1] * size[2] * size[3] * size[6] * size[7])
    if operand == _O:
        return float(size[0] * size[1] * size[2] * size[4] * size[5])
    # pairs of an output and a filter row less those that meet an earlier pair, see problem.distinct
    rows = size[4] * size[6] - max(0, size[4] - nest[STEPS, 0]) * max(0, size[6] - nest[STEPS, 2])
    columns = size[5] * size[7] - max(0, size[5] - nest[STEPS, 1]) * max(0, size[7] - nest[STEPS, 3])
    return float(size[0] * size[1] * size[3] * rows * columns)


@_inner
def _start(states, at):
    """Nothing exchanged yet: row ``at`` of ``states [n, 6]``.

    0 exchanges to a neighbour, 1 other exchanges, 2 the dim that moved first or -1, 3 whether others moved too, 4
    distinct tiles, 5 turns of all loops.
    """
    states[at, 0], states[at, 1], states[at, 2] = 0.0, 0.0, -1.0
    states[at, 3], states[at, 4], states[at, 5] = 0.0, 1.0, 1.0


@_inner
def _gather(nest, temporal, level, order, loops):
    """Loops of ``level`` that turn into ``loops [2, 9]``, the innermost first, and their number at ``[0, 8]``."""
    n = 0
    for i in range(8):
        d = nest[ORDERS + order, i]
        if temporal[level, d] > 1:
            loops[0, n], loops[1, n] = d, temporal[level, d]
            n += 1
    loops[0, 8] = n


@_inner
def _walk(nest, loops, operand, states, source, at):
    """Add the exchanges by the loops of a level to row ``source`` of ``states`` and leave them in row ``at``."""
    slid, other, dim = states[source, 0], states[source, 1], int(states[source, 2])
    mixed, tiles, turns = states[source, 3], states[source, 4], states[source, 5]
    for i in range(loops[0, 8]):
        d, n = loops[0, i], float(loops[1, i])
        turns *= n
        if nest[RELEVANT + operand, d]:
            tiles *= n
            if dim < 0:
                dim, slid = d, n - 1.0
            elif d == dim and mixed == 0.0:
                slid = n * slid + n - 1.0
                other *= n
            else:
                mixed = 1.0
                slid *= n
                other = n * other + n - 1.0
        elif dim >= 0:
            slid *= n
            other = n * other + n - 1.0
    states[at, 0], states[at, 1], states[at, 2] = slid, other, dim
    states[at, 3], states[at, 4], states[at, 5] = mixed, tiles, turns


@_inner
def _block(nest, temporal, spatial, level, size):
    """Loop counts of the tile of ``level`` into ``size``."""
    for d in range(8):
        n = 1
        for i in range(level + 1):
            n *= temporal[i, d]
        for a in range(spatial.shape[0]):
            if nest[PLACE, a] <= level:
                n *= spatial[a, d]
        size[d] = n


@_inner
def _positions(nest, spatial, first, operand):
    """Positions beneath level ``first`` and all further out; of an operand those that share no word, -1 is all."""
    count = 1.0
    for a in range(spatial.shape[0]):
        if nest[PLACE, a] >= first:
            for d in range(8):
                if operand < 0 or not nest[RELEVANT + operand, d]:
                    count *= spatial[a, d]
    return count


@_inner
def _book_reads(nest, temporal, spatial, edge, states, at, size, share, counts):
    """Weights or inputs on their way inwards: read outside, passed on, written inside."""
    operand, inner, outer = nest[edge, 0], nest[edge, 1], nest[edge, 2]
    slid, other, d = states[at, 0], 1.0 + states[at, 1], int(states[at, 2])
    slides = operand == _I and inner >= 0 and d >= 0 and nest[LEVELS + inner, SLIDES]
    if slides:
        pair = (
            d if d < _Y else d + 2 if d < _Y + 2 else d - 2
        )  # rows of the output and of the filter, columns alike
        for a in range(spatial.shape[0]):
            if nest[PLACE, a] > inner and spatial[a, d] * spatial[a, pair] > 1:
                slides = False
    copies, apart = 1.0, 0  # dims along which positions share no halo, as bits
    amount = 0.0
    for place in range(inner, outer + 1):
        if place > inner and nest[LEVELS + place, NETWORK] == NONE:
            continue
        if place > inner:
            if operand == _I:
                apart |= _apart(nest, temporal, inner, place)
            for a in range(spatial.shape[0]):
                if nest[PLACE, a] == place:
                    for d_ in range(8):
                        if (apart >> d_) & 1 or nest[LEVELS + place, NETWORK] == UNICAST:
                            copies *= spatial[a, d_]
                        else:
                            size[d_] *= spatial[a, d_]
        words = _words(nest, operand, size)
        new = words
        if slides:
            size[d] *= 2
            new = _words(nest, operand, size) - words
            size[d] //= 2
        taken = (words * other + new * slid) * copies * _positions(nest, spatial, place + 1, -1) * share
        if place > inner:
            network = nest[LEVELS + place, NETWORK]
            counts[2, place, operand] += amount - taken if network == SYSTOLIC else amount
        elif inner >= 0:
            counts[1, inner, operand] += taken
        amount = taken
    counts[0, outer, operand] += amount


@_inner
def _apart(nest, temporal, inner, place):
    """Window dims along which positions beneath ``place`` share no halo: windows do not adjoin, or go alone."""
    apart = 0
    alone = not nest[LEVELS + place, HALO] or nest[LEVELS + place, NETWORK] == UNICAST
    for d in range(_Y, 8):
        between = 1
        for level in range(inner + 1, place):
            between *= temporal[level, d]
        if between > 1 or alone:
            apart |= 1 << d
    return apart


@_inner
def _book_sums(nest, spatial, edge, states, at, size, share, counts):
    """Outputs on their way outwards, and partial sums back in.

    A tile comes back as often as it leaves, less the first time. It leaves for the last time with final values, unless
    positions further out hold other parts of the sums. The innermost memory holds all values as partial sums.
    """
    inner, outer = nest[edge, 1], nest[edge, 2]
    visits = 1.0 + states[at, 0] + states[at, 1]
    again = visits - states[at, 4]
    last = states[at, 4] if inner >= 0 and _positions(nest, spatial, outer + 1, _O) == 1.0 else 0.0
    amount = _words(nest, _O, size) * _positions(nest, spatial, inner + 1, -1) * share
    if inner >= 0:
        narrow = last if not nest[edge, 3] and _positions(nest, spatial, inner + 1, _O) == 1.0 else 0.0
        counts[0, inner, _FINAL] += narrow * amount
        counts[0, inner, _PARTIAL] += (visits - narrow) * amount
    for place in range(inner + 1, outer + 1):
        if nest[LEVELS + place, NETWORK] == NONE:
            continue
        for a in range(spatial.shape[0]):
            if nest[PLACE, a] == place:
                for d in range(8):
                    size[d] *= spatial[a, d]
        joined = _words(nest, _O, size) * _positions(nest, spatial, place + 1, -1) * share
        counts[2, place, _PARTIAL] += (amount - joined) * visits
        amount = joined
    counts[1, outer, _FINAL] += last * amount
    counts[1, outer, _PARTIAL] += (visits - last) * amount
    counts[0, outer, _PARTIAL] += again * amount
    if inner >= 0:
        counts[1, inner, _PARTIAL] += again * amount


@_inner
def _book(nest, temporal, spatial, edge, states, at, size, shares, counts):
    """Book one way that an operand takes, given the exchanges of the inner tile ``size`` (used up)."""
    operand, share = nest[edge, 0], shares[nest[edge, 0]]
    if nest[edge, 1] < 0:  # elements keep nothing: every turn is an exchange
        states[at, 0], states[at, 1], states[at, 2] = 0.0, states[at, 5] - 1.0, -1.0
        share = shares[3]
    if operand == _O:
        _book_sums(nest, spatial, edge, states, at, size, share, counts)
    else:
        _book_reads(nest, temporal, spatial, edge, states, at, size, share, counts)


@_outer
def count(nest, temporal, spatial, perms, shares, counts):
    """Words read, written and passed on, ``counts [3, L, 4]``, of one mapping.

    ``shares [4]``: by operand the part of the padded loops that is real, and of all products.
    """
    size, states, loops = np.empty(8, np.int64), np.empty((1, 6)), np.empty((2, 9), np.int64)
    _count(nest, temporal, spatial, perms, shares, counts, size, states, loops)


@_inner
def _count(nest, temporal, spatial, perms, shares, counts, size, states, loops):
    _clear(counts)
    levels = temporal.shape[0]
    for edge in range(LEVELS + levels, nest.shape[0]):
        operand, inner = nest[edge, 0], nest[edge, 1]
        _block(nest, temporal, spatial, inner, size)
        _start(states, 0)
        for level in range(inner + 1, levels):
            _gather(nest, temporal, level, perms[level], loops)
            _walk(nest, loops, operand, states, 0, 0)
        _book(nest, temporal, spatial, edge, states, 0, size, shares, counts)


@_outer
def latency(nest, scale, temporal, spatial, perms, shares, counts, times):
    """Cycles of a mapping whose counts are known; ``times [L + 1]`` gets the busy cycles of each level's ports, then
    those of the elements with what they wait for.

    The elements wait for the first tiles on their way in, and for every further filling of levels that are not
    buffered. Everything else overlaps, so the busiest part sets the time.
    """
    size, states, loops = np.empty(8, np.int64), np.empty((1, 6)), np.empty((2, 9), np.int64)
    first = np.empty((2, temporal.shape[0]))
    return _latency(nest, scale, temporal, spatial, perms, shares, counts, times, size, states, loops, first)


@_inner
def _latency(nest, scale, temporal, spatial, perms, shares, counts, times, size, states, loops, first):
    """See :func:`latency`; ``first [2, L]`` is for the first tiles: filling a level, and what it gives to others."""
    levels = temporal.shape[0]
    compute = 1.0
    for level in range(levels):
        for d in range(8):
            compute *= temporal[level, d]
    for level in range(levels):
        read, written = 0.0, 0.0
        for column in range(4):
            read += counts[0, level, column] * scale[levels, column]
            written += counts[1, level, column] * scale[levels, column]
        instances = _positions(nest, spatial, level + 1, -1)
        read, written = read / instances / scale[level, PORTS], written / instances / scale[level, PORTS + 1]
        times[level] = read + written if nest[LEVELS + level, SHARED] else max(read, written)
    for level in range(levels):
        first[0, level] = first[1, level] = 0.0
    for edge in range(LEVELS + levels, nest.shape[0]):
        operand, inner, outer = nest[edge, 0], nest[edge, 1], nest[edge, 2]
        if inner < 0:
            continue
        _block(nest, temporal, spatial, inner, size)
        tile = _words(nest, operand, size) * scale[levels, operand]
        single = nest[LEVELS + inner, BUFFERING] == SINGLE
        if operand == _O:
            if single:
                _start(states, 0)
                for level in range(inner + 1, levels):
                    _gather(nest, temporal, level, perms[level], loops)
                    _walk(nest, loops, operand, states, 0, 0)
                again = 1.0 + states[0, 0] + states[0, 1] - states[0, 4]
                compute += again * tile / min(scale[inner, PORTS + 1], scale[outer, PORTS])
            continue
        for d in range(8):  # what all positions take at once: the inner tile along the axes between
            for a in range(spatial.shape[0]):
                if inner < nest[PLACE, a] <= outer:
                    size[d] *= spatial[a, d]
        joint = _words(nest, operand, size) * scale[levels, operand]
        first[0, inner] += tile / scale[inner, PORTS + 1]
        first[1, outer] += joint / scale[outer, PORTS]
        if single:
            once = tile * _positions(nest, spatial, inner + 1, -1) * shares[operand]
            exchanges = counts[1, inner, operand] * scale[levels, operand] / once
            compute += (exchanges - 1.0) * max(tile / scale[inner, PORTS + 1], joint / scale[outer, PORTS])
    for level in range(levels):  # a transfer takes as long as the slower of its ends
        longest = first[1, level]
        for edge in range(LEVELS + levels, nest.shape[0]):
            if nest[edge, 2] == level and nest[edge, 1] >= 0:
                longest = max(longest, first[0, nest[edge, 1]])
        compute += longest
    times[levels] = compute
    for level in range(levels):
        compute = max(compute, times[level])
    return compute


@_inner
def _fits(nest, scale, level, size, output_bits):
    """Whether the tile ``size`` fits into ``level``."""
    bits = 0.0
    words = scale.shape[0] - 1
    for operand in range(3):
        if nest[LEVELS + level, KEEPS + operand]:
            width = output_bits if operand == _O else scale[words, operand]
            bits += _words(nest, operand, size) * width
    if nest[LEVELS + level, BUFFERING] == DOUBLE:
        bits *= 2.0
    return bits <= scale[level, CAPACITY]


@_inner
def _fit_outwards(nest, scale, level, size, output_bits):
    """Whether ``size`` fits into ``level`` and all further out, whose tiles hold it too."""
    fits = True
    for outside in range(level, nest[STEPS, 4] - 1):
        fits = fits and _fits(nest, scale, outside, size, output_bits)
    return fits


@_inner
def _take(nest, scale, edge, only, counts):
    """Energy of what one edge has booked, in one column or in ``EVERY``; leaves ``counts`` as if it had not."""
    operand, inner, outer = nest[edge, 0], nest[edge, 1], nest[edge, 2]
    energy = 0.0
    for column in range(operand, 4 if operand == _O else operand + 1):
        for level in range(max(inner, 0), outer + 1):
            if only in (EVERY, column):
                energy += counts[2, level, column] * scale[level, MOVE + column]
                energy += counts[0, level, column] * scale[level, READ + column]
                energy += counts[1, level, column] * scale[level, WRITE + column]
            counts[0, level, column] = counts[1, level, column] = counts[2, level, column] = 0.0
    return energy


@_inner
def _price_edge(nest, scale, temporal, spatial, rest, edge, only, shares, counts, size, states, costs):
    """Energy of an edge as a linear function of its exchanges, into its row of ``costs [n, 9]``.

    For weights and inputs of a whole exchange, then of one to a neighbour by the dim that slides; for outputs of a
    visit and, at 1, of a distinct tile. Uses row 0 of ``states``; ``counts`` are zero before and after.
    """
    operand, inner = nest[edge, 0], nest[edge, 1]
    _start(states, 0)
    _block(nest, temporal, spatial, inner, size)
    _book(nest, temporal, spatial, edge, states, 0, size, shares, counts)
    once = _take(nest, scale, edge, only, counts)
    if operand == _O:
        states[0, 1] = 1.0
        _block(nest, temporal, spatial, inner, size)
        _book(nest, temporal, spatial, edge, states, 0, size, shares, counts)
        costs[edge, 0] = _take(nest, scale, edge, only, counts) - once
        costs[edge, 1] = once - costs[edge, 0]
        return
    for i in range(9):
        costs[edge, i] = once
    if operand != _I or not nest[LEVELS + inner, SLIDES]:
        return
    for d in range(_Y, 8):
        left = rest[d]
        for level in range(inner + 1, nest[STEPS, 7]):
            left *= temporal[level, d]
        if left > 1:
            states[0, 0], states[0, 2] = 1.0, float(d)
            _block(nest, temporal, spatial, inner, size)
            _book(nest, temporal, spatial, edge, states, 0, size, shares, counts)
            costs[edge, 1 + d] = _take(nest, scale, edge, only, counts) - once


@_inner
def _price_outside(nest, scale, base, temporal, edge, shares, size, costs):
    """The same for an edge outside all axes, where nothing is passed on; ``base [8]`` is the array's block."""
    operand, inner, outer = nest[edge, 0], nest[edge, 1], nest[edge, 2]
    for d in range(8):
        size[d] = base[d]
        for level in range(nest[STEPS, 7], inner + 1):
            size[d] *= temporal[level, d]
    words = _words(nest, operand, size) * shares[operand]
    if operand == _O:
        back = scale[outer, READ + _PARTIAL] + scale[inner, WRITE + _PARTIAL]
        out = scale[inner, READ + _PARTIAL] + scale[outer, WRITE + _PARTIAL]
        last = scale[inner, READ + (_PARTIAL if nest[edge, 3] else _FINAL)] + scale[outer, WRITE + _FINAL]
        costs[edge, 0] = words * (back + out)
        costs[edge, 1] = words * (last - out - back)
        return
    each = scale[outer, READ + operand] + scale[inner, WRITE + operand]
    for i in range(9):
        costs[edge, i] = words * each
    if operand == _I and nest[LEVELS + inner, SLIDES]:
        for d in range(_Y, 8):
            size[d] *= 2
            costs[edge, 1 + d] = (_words(nest, operand, size) * shares[operand] - words) * each
            size[d] //= 2


@_inner
def _edge_energy(operand, states, at, costs, edge):
    if operand == _O:
        return (1.0 + states[at, 0] + states[at, 1]) * costs[edge, 0] + states[at, 4] * costs[edge, 1]
    energy = (1.0 + states[at, 1]) * costs[edge, 0]
    if states[at, 2] >= 0.0:
        energy += states[at, 0] * costs[edge, 1 + int(states[at, 2])]
    return energy


@_inner
def _elements(nest, scale, temporal, spatial, rest, edge, only, shares, counts, size, states):
    """Energy of what elements exchange with an operand's innermost memory, which no order outside changes."""
    operand = nest[edge, 0]
    _start(states, 0)
    for d in range(8):
        n = rest[d]
        for level in range(nest[STEPS, 7]):
            n *= temporal[level, d]
        states[0, 5] *= n
        if nest[RELEVANT + operand, d]:
            states[0, 4] *= n
    _block(nest, temporal, spatial, -1, size)
    _book(nest, temporal, spatial, edge, states, 0, size, shares, counts)
    return _take(nest, scale, edge, only, counts)


@_inner
def _bound(
    nest, scale, tensors, temporal, spatial, rest, shares, counts, size, states, loops, costs, parts, n
):
    """Least energy per bit of all mappings with this inside into row ``n`` of ``parts [N, 8]``.

    The best any order could do, and every tensor moved once outside: for each column, with the operand moving whenever
    loops outside turn, and with it staying. Only one operand can stay at a time.
    """
    levels, inside_levels = temporal.shape[0], nest[STEPS, 7]
    for i in range(8):
        parts[n, i] = 0.0
    for edge in range(LEVELS + levels, nest.shape[0]):
        operand, inner, outer = nest[edge, 0], nest[edge, 1], nest[edge, 2]
        relevant, irrelevant = 1.0, 1.0
        for d in range(8):
            if nest[RELEVANT + operand, d]:
                relevant *= rest[d]
            else:
                irrelevant *= rest[d]
        if inner >= inside_levels:
            words = tensors[operand]
            column = _FINAL if operand == _O else operand
            once = words * (scale[inner, READ + column] + scale[outer, WRITE + column])
            if operand != _O:
                once = words * (scale[outer, READ + column] + scale[inner, WRITE + column])
            parts[n, 2 * column] += once
            parts[n, 2 * column + 1] += once
            continue
        for column in range(operand, 4 if operand == _O else operand + 1):
            if inner < 0:
                once = _elements(
                    nest, scale, temporal, spatial, rest, edge, column, shares, counts, size, states
                )
                parts[n, 2 * column] += once
                parts[n, 2 * column + 1] += once
                continue
            _price_edge(
                nest, scale, temporal, spatial, rest, edge, column, shares, counts, size, states, costs
            )
            _start(states, 0)
            for level in range(inner + 1, inside_levels):
                _gather(nest, temporal, level, nest[LEVELS + level, ORDER], loops)
                _walk(nest, loops, operand, states, 0, 0)
            visits = (1.0 + states[0, 0] + states[0, 1]) * relevant
            if operand == _O:
                each, fixed = costs[edge, 0], states[0, 4] * relevant * costs[edge, 1]
            else:
                each, fixed = costs[edge, 0], 0.0
                for i in range(9):
                    each = min(each, costs[edge, i])
            moving = visits * irrelevant * each + fixed
            parts[n, 2 * column] += moving
            parts[n, 2 * column + 1] += visits * each + fixed if states[0, 2] < 0.0 else moving


@_inner
def _choose(nest, turns, positions, rests, real, chosen, temporal, spatial, rest, shares):
    """The mapping inside the array that eight choices make."""
    for i in range(4):
        shares[i] = 1.0
    for d in range(8):
        c = chosen[d]
        for level in range(turns.shape[1]):
            temporal[level, d] = turns[c, level]
        for a in range(spatial.shape[0]):
            spatial[a, d] = positions[c, a]
        rest[d] = rests[c]
        shares[3] *= real[c]
        for operand in range(3):
            if nest[RELEVANT + operand, d]:
                shares[operand] *= real[c]


@_inner
def _idle(spatial, rest, axes, may, where, values):
    """Whether an axis could take more of a dim whose loops otherwise turn outside."""
    for a in range(spatial.shape[0]):
        taken = 1
        for d in range(8):
            taken *= spatial[a, d]
        for d in range(8):
            if rest[d] > 1 and may[d, a] and taken * values[where[rest[d]] + 1] <= axes[a]:
                return True
    return False


@_outer
def inside(
    nest, scale, narrowest, first, turns, positions, rests, real, sizes, may, where, values, tensors, found, parts
):  # fmt: skip
    """All ways to fill the array into ``found int64 [N, 8]``, what bounds their energies into ``parts [N, 8]``.

    ``scale`` is for words of one bit, ``narrowest`` for those that are to fit; arguments from ``first`` to ``tensors``
    are those of ``energy.mapping.space.Space``. Left out are ways that do not fit, and those with an axis that could
    take more. Returns how many there are, of which the first ``N`` are written.
    """
    levels, inside_levels, axes = nest[STEPS, 4], nest[STEPS, 7], nest[STEPS, 5]
    temporal, spatial = np.ones((levels, 8), np.int64), np.ones((axes, 8), np.int64)
    rest, shares, chosen = np.ones(8, np.int64), np.ones(4), np.zeros(8, np.int64)
    counts, size, states = np.zeros((3, levels, 4)), np.empty(8, np.int64), np.empty((1, 6))
    costs, taken = np.empty((nest.shape[0], 9)), np.ones((9, axes), np.int64)
    loops = np.empty((2, 9), np.int64)
    # dims of few choices first: what they take of an axis rules out much of the others
    sequence = np.arange(8)
    for i in range(1, 8):
        for j in range(i, 0, -1):
            one, other = sequence[j - 1], sequence[j]
            if first[other + 1] - first[other] < first[one + 1] - first[one]:
                sequence[j - 1], sequence[j] = other, one
    chosen[sequence[0]] = first[sequence[0]]
    n, i = np.int64(0), np.int64(0)
    while i >= 0:
        d = sequence[i]
        c = chosen[d]
        if c == first[d + 1]:  # all choices of this dim are done: back to the one before
            for level in range(inside_levels):
                temporal[level, d] = 1
            for a in range(axes):
                spatial[a, d] = 1
            i -= 1
            if i >= 0:
                chosen[sequence[i]] += 1
            continue
        fits = True
        for a in range(axes):
            spatial[a, d] = positions[c, a]
            taken[i + 1, a] = taken[i, a] * positions[c, a]
            fits = fits and taken[i + 1, a] <= sizes[a]
        for level in range(inside_levels):
            temporal[level, d] = turns[c, level]
        for level in range(inside_levels):
            if fits:
                _block(nest, temporal, spatial, level, size)
                fits = _fits(nest, narrowest, level, size, narrowest[levels, _PARTIAL])
        if fits and i < 7:
            i += 1
            chosen[sequence[i]] = first[sequence[i]]
            continue
        if fits:
            _choose(nest, turns, positions, rests, real, chosen, temporal, spatial, rest, shares)
            if not _idle(spatial, rest, sizes, may, where, values):
                if n < found.shape[0]:
                    for e in range(8):
                        found[n, e] = chosen[e]
                    _bound(
                        nest, scale, tensors, temporal, spatial, rest, shares, counts, size, states, loops,
                        costs, parts, n,
                    )  # fmt: skip
                n += 1
        chosen[d] += 1
    return n


@_inner
def _keep(results, mappings, n, energy, cycles, temporal, spatial, perms, shares):
    """Insert a mapping into ``results [N, 6]`` (energy, cycles, shares) and ``mappings [N, 2 L + A, 8]``, unless it is
    one of them under another name; returns how many there are."""
    at = 0
    while at < n:
        same = abs(results[at, 0] - energy) <= 1e-9 * energy
        if same and abs(results[at, 1] - cycles) <= 1e-9 * cycles:
            return n
        if (same and cycles < results[at, 1]) or (not same and energy < results[at, 0]):
            break
        at += 1
    capacity, levels = results.shape[0], temporal.shape[0]
    if at == capacity:
        return n
    for i in range(min(n, capacity - 1), at, -1):
        for j in range(6):
            results[i, j] = results[i - 1, j]
        for row in range(mappings.shape[1]):
            for d in range(8):
                mappings[i, row, d] = mappings[i - 1, row, d]
    results[at, 0], results[at, 1] = energy, cycles
    for j in range(4):
        results[at, 2 + j] = shares[j]
    for d in range(8):
        for level in range(levels):
            mappings[at, level, d] = temporal[level, d]
            mappings[at, levels + level, d] = perms[level]
        for a in range(spatial.shape[0]):
            mappings[at, 2 * levels + a, d] = spatial[a, d]
    return min(n + 1, capacity)


@_inner
def _distinct_orders(nest, allowed, temporal, level, plan, loops, depth):
    """Orders of ``level`` that differ where its loops turn, into row ``depth`` of ``plan``; returns how many.

    The last row of ``plan`` is used for their codes.
    """
    n, codes = 0, plan.shape[0] - 1
    for order in range(LEVELS - ORDERS):
        if not allowed[level, order]:
            continue
        _gather(nest, temporal, level, order, loops)
        code = 0
        for i in range(loops[0, 8]):
            code = 9 * code + loops[0, i] + 1
        new = True
        for i in range(n):
            new = new and plan[codes, i] != code
        if new:
            plan[codes, n], plan[depth, n] = code, order
            n += 1
    return n


@_inner
def _order_dims(where, rest, m, dims, digits):
    """Dims with loops left into row ``m`` of ``dims``, the one with the most divisors last, and their number at 8."""
    n, most, last = 0, 0, 0
    for d in range(8):
        digits[m, d] = 0
        if rest[m, d] > 1:
            dims[m, n] = d
            left = rest[m, d]
            ways = where[left + 1] - where[left]
            if ways > most:
                most, last = ways, n
            n += 1
    if n > 0:
        dims[m, last], dims[m, n - 1] = dims[m, n - 1], dims[m, last]
    dims[m, 8] = n


@_inner
def _next(nest, scale, where, values, level, temporal, base, rest, dims, digits, m, size, width, fresh):
    """Advance row ``m`` of ``digits`` to the next tile of ``level`` that fits and cannot grow; False after the last.

    Of the last dim that is always as much as fits, so the other dims alone are gone through.
    """
    n = dims[m, 8]
    at = -1 if fresh else n - 2
    if not fresh and n < 2:
        return False
    while True:
        while at >= 0:  # the next of the dims before the last
            left = rest[m, dims[m, at]]
            if digits[m, at] + 1 < where[left + 1] - where[left]:
                digits[m, at] += 1
                break
            digits[m, at] = 0
            at -= 1
            if at < 0:
                return False
        for d in range(8):
            temporal[level, d] = 1
            size[d] = base[d]
            for below in range(nest[STEPS, 7], level):
                size[d] *= temporal[below, d]
        for i in range(n):
            size[dims[m, i]] *= rest[m, dims[m, i]]
        at = -1
        for i in range(n - 1):  # what can grow though all later dims are whole can grow whatever they are
            d = dims[m, i]
            whole = size[d] // rest[m, d]
            temporal[level, d] = values[where[rest[m, d]] + digits[m, i]]
            left = rest[m, d] // temporal[level, d]
            if at < 0 and left > 1:
                size[d] = whole * temporal[level, d] * values[where[left] + 1]
                if _fit_outwards(nest, scale, level, size, width):
                    at = i
            size[d] = whole * temporal[level, d]
        if at >= 0:
            for i in range(at + 1, n - 1):
                digits[m, i] = 0
            continue
        if n > 0:
            size[dims[m, n - 1]] //= rest[m, dims[m, n - 1]]
        if not _fit_outwards(nest, scale, level, size, width):
            # more of any later dim does not fit either: drop the last that has some and go on with the one before
            at = n - 2
            while at >= 0 and digits[m, at] == 0:
                at -= 1
            if at < 0:
                return False  # not even the least tile fits
            digits[m, at] = 0
            at -= 1
            if at < 0:
                return False
            continue
        if n == 0:
            return True
        d = dims[m, n - 1]
        first, last = where[rest[m, d]], where[rest[m, d] + 1] - 1
        inner = size[d]
        while first < last:
            middle = (first + last + 1) // 2
            size[d] = inner * values[middle]
            if _fit_outwards(nest, scale, level, size, width):
                first = middle
            else:
                last = middle - 1
        temporal[level, d] = values[first]
        size[d] = inner * values[first]
        if not _grows(nest, scale, where, values, temporal, level, rest, dims, m, size, width):
            return True
        if n < 2:
            return False
        at = n - 2


@_inner
def _grows(nest, scale, where, values, temporal, level, rest, dims, m, size, width):
    """Whether the tile of ``level``, which is ``size``, could take more of any dim but the last."""
    for i in range(dims[m, 8] - 1):
        d = dims[m, i]
        left = rest[m, d] // temporal[level, d]
        if left > 1:
            inner = size[d]
            size[d] = inner * values[where[left] + 1]
            fits = _fit_outwards(nest, scale, level, size, width)
            size[d] = inner
            if fits:
                return True
    return False


@_inner
def _score_orders(
    nest, scale, allowed, temporal, spatial, base, shares, costs, states, elements,
    results, mappings, found, work, plan, loops, size, perms, one, times, first,
):  # fmt: skip
    """Score every order of the levels outside for complete tiles; returns how many there are.

    Row ``depth * rows + edge`` of ``states`` holds the exchanges by the levels before ``depth``, counted outwards.
    ``plan`` is scratch: a row of orders per depth, then the order in hand and how many there are by depth.
    """
    levels, inside_levels, rows = temporal.shape[0], nest[STEPS, 7], nest.shape[0]
    depths = levels - inside_levels
    digit, number = depths, depths + 1
    wide = 0  # levels, as bits, that have no room for partial sums
    for depth in range(depths):
        plan[digit, depth] = 0
        plan[number, depth] = _distinct_orders(
            nest, allowed, temporal, inside_levels + depth, plan, loops, depth
        )
        if depth < depths - 1:
            for d in range(8):
                size[d] = base[d]
                for level in range(inside_levels, inside_levels + depth + 1):
                    size[d] *= temporal[level, d]
            if not _fits(nest, scale, inside_levels + depth, size, scale[levels, _PARTIAL]):
                wide |= 1 << (inside_levels + depth)
    scored, depth = 0, 0
    while depth >= 0:
        if plan[digit, depth] == plan[number, depth]:
            plan[digit, depth] = 0
            depth -= 1
            if depth >= 0:
                plan[digit, depth] += 1
            continue
        level = inside_levels + depth
        order = plan[depth, plan[digit, depth]]
        perms[level] = order
        _gather(nest, temporal, level, order, loops)
        energy, fits = elements, True
        for edge in range(LEVELS + levels, rows):
            inner, operand = nest[edge, 1], nest[edge, 0]
            if inner < 0:
                continue
            source, at = depth * rows + edge, (depth + 1) * rows + edge
            if inner < level:
                _walk(nest, loops, operand, states, source, at)
            if depth == depths - 1:
                energy += _edge_energy(operand, states, at, costs, edge)
                if operand == _O and wide and 1.0 + states[at, 0] + states[at, 1] > states[at, 4]:
                    fits = fits and not (wide >> nest[edge, 2]) & 1
        if depth < depths - 1:
            depth += 1
            continue
        scored += 1
        n = found[0]
        if fits and (n < results.shape[0] or energy <= results[n - 1, 0] * (1.0 + 1e-9)):
            found[0] = _found(
                nest, scale, temporal, spatial, perms, shares, energy, results, mappings, n,
                work, size, one, loops, times, first,
            )  # fmt: skip
        plan[digit, depth] += 1
    return scored


@_inner
def _found(
    nest, scale, temporal, spatial, perms, shares, energy, results, mappings, n, work, size, one, loops, times, first
):  # fmt: skip
    """Keep a mapping that may be among the best; returns how many there are."""
    _count(nest, temporal, spatial, perms, shares, work, size, one, loops)
    cycles = _latency(nest, scale, temporal, spatial, perms, shares, work, times, size, one, loops, first)
    return _keep(results, mappings, n, energy, cycles, temporal, spatial, perms, shares)


@_inner
def _tile(
    nest, scale, where, values, fixed, allowed, temporal, spatial, base, rest, dims, digits, width,
    shares, costs, states, elements, results, mappings, found, work, plan, loops, size, perms, one, times, first,
):  # fmt: skip
    """Score all tiles of the levels outside with outputs of ``width`` bits; returns how many mappings those are."""
    levels, inside_levels = temporal.shape[0], nest[STEPS, 7]
    middle = levels - 1 - inside_levels
    scored, m, fresh = 0, np.int64(0), True
    _order_dims(where, rest, m, dims, digits)
    while m >= 0:
        level = inside_levels + m
        if m < middle:
            for outside in range(level + 1, levels):
                for d in range(8):
                    temporal[outside, d] = 1
            stuck = False
            for d in range(8):
                stuck = stuck or (fixed[level, d] and rest[m, d] > 1)
            if not stuck and _next(
                nest, scale, where, values, level, temporal, base, rest, dims, digits, m, size, width, fresh
            ):
                for d in range(8):
                    rest[m + 1, d] = rest[m, d] // temporal[level, d]
                m, fresh = m + 1, True
                _order_dims(where, rest, m, dims, digits)
            else:
                for d in range(8):
                    temporal[level, d] = 1
                m, fresh = m - 1, False
            continue
        may = True
        for d in range(8):
            temporal[level, d] = rest[m, d]
            may = may and not (fixed[level, d] and rest[m, d] > 1)
        if may:
            for edge in range(LEVELS + levels, nest.shape[0]):
                if nest[edge, 1] >= inside_levels:
                    _price_outside(nest, scale, base, temporal, edge, shares, size, costs)
            scored += _score_orders(
                nest, scale, allowed, temporal, spatial, base, shares, costs, states, elements,
                results, mappings, found, work, plan, loops, size, perms, one, times, first,
            )  # fmt: skip
        m, fresh = m - 1, False
    return scored


@_outer
def search(
    nest, scale, turns, positions, rests, real, where, values, fixed, allowed,
    choices, bounds, results, mappings, found,
):  # fmt: skip
    """Score all mappings that may be among the best; returns how many were scored.

    ``choices`` and ``bounds`` are those of :func:`inside`, cheapest first; arguments before them are those of
    ``energy.mapping.space.Space``. For each choice, the levels outside hold every tile that fits and cannot grow, in
    every order, until no bound is below the worst mapping kept. The ``found [1]`` best are kept in
    ``results [N, 6]`` (energy, cycles, shares) and ``mappings [N, 2 L + A, 8]`` (temporal, orders, spatial).
    """
    levels, inside_levels, rows = nest[STEPS, 4], nest[STEPS, 7], nest.shape[0]
    middle, depths = levels - 1 - inside_levels, levels - inside_levels
    temporal, spatial = np.ones((levels, 8), np.int64), np.ones((nest[STEPS, 5], 8), np.int64)
    rest, shares = np.ones((middle + 1, 8), np.int64), np.ones(4)
    left, chosen = np.ones(8, np.int64), np.ones(8, np.int64)
    digits, dims = np.zeros((middle + 1, 8), np.int64), np.zeros((middle + 1, 9), np.int64)
    size, base = np.empty(8, np.int64), np.empty(8, np.int64)
    counts, costs, one = np.zeros((3, levels, 4)), np.zeros((rows, 9)), np.empty((1, 6))
    states, work = np.zeros(((depths + 1) * rows, 6)), np.zeros((3, levels, 4))
    plan, loops = np.zeros((depths + 3, 8), np.int64), np.empty((2, 9), np.int64)
    perms, times, first = np.empty(levels, np.int64), np.empty(levels + 1), np.empty((2, levels))
    for level in range(inside_levels):
        perms[level] = nest[LEVELS + level, ORDER]
    scored, every = 0, np.int64(EVERY)
    for c in range(choices.shape[0]):
        n = found[0]
        if n == results.shape[0] and bounds[c] > results[n - 1, 0]:
            break
        _fill(temporal, 1)
        for d in range(8):
            chosen[d] = choices[c, d]
        _choose(nest, turns, positions, rests, real, chosen, temporal, spatial, left, shares)
        fits = True
        for level in range(inside_levels):
            _block(nest, temporal, spatial, level, size)
            fits = fits and _fits(nest, scale, level, size, scale[levels, _PARTIAL])
        if not fits:
            continue
        elements = 0.0
        _block(nest, temporal, spatial, levels - 1, base)
        for d in range(8):
            rest[0, d] = left[d]
        for row in range(states.shape[0]):
            _start(states, row)
        for edge in range(LEVELS + levels, rows):
            if nest[edge, 1] < 0:
                elements += _elements(
                    nest, scale, temporal, spatial, left, edge, every, shares, counts, size, one
                )
            elif nest[edge, 1] < inside_levels:
                _price_edge(
                    nest, scale, temporal, spatial, left, edge, every, shares, counts, size, one, costs
                )
                for level in range(nest[edge, 1] + 1, inside_levels):
                    _gather(nest, temporal, level, nest[LEVELS + level, ORDER], loops)
                    _walk(nest, loops, nest[edge, 0], states, edge, edge)
        narrow, wide = scale[levels, _FINAL], scale[levels, _PARTIAL]
        for summing in range(2):  # tiles with room for outputs, then those with room for partial sums
            if (summing and wide > narrow and left[3] * left[6] * left[7] == 1) or (
                not summing and wide <= narrow
            ):
                continue
            scored += _tile(
                nest, scale, where, values, fixed, allowed, temporal, spatial, base, rest, dims, digits,
                wide if summing else narrow, shares, costs, states, elements, results, mappings, found, work,
                plan, loops, size, perms, one, times, first,
            )  # fmt: skip
    return scored


@_outer
def rescore(nest, scale, mappings, shares, counts, scores):
    """Price mappings whose counts are known in other formats: energy and cycles into ``scores [n, 2]``.

    Both are infinite where a level is too small. ``mappings [n, 2 L + A, 8]`` and ``shares [n, 4]`` are as
    :func:`search` leaves them, ``counts [n, 3, L, 4]`` as of :func:`count`.
    """
    levels = nest[STEPS, 4]
    temporal, spatial = np.empty((levels, 8), np.int64), np.empty((nest[STEPS, 5], 8), np.int64)
    perms, size, times = np.empty(levels, np.int64), np.empty(8, np.int64), np.empty(levels + 1)
    for i in range(mappings.shape[0]):
        for level in range(levels):
            perms[level] = mappings[i, levels + level, 0]
            for d in range(8):
                temporal[level, d] = mappings[i, level, d]
        for a in range(spatial.shape[0]):
            for d in range(8):
                spatial[a, d] = mappings[i, 2 * levels + a, d]
        fits, energy = True, 0.0
        for level in range(levels):
            _block(nest, temporal, spatial, level, size)
            sums = counts[i, 1, level, _PARTIAL] > 0.0 or level < nest[STEPS, 7]
            fits = fits and _fits(nest, scale, level, size, scale[levels, _PARTIAL if sums else _FINAL])
            for column in range(4):
                energy += counts[i, 0, level, column] * scale[level, READ + column]
                energy += counts[i, 1, level, column] * scale[level, WRITE + column]
                energy += counts[i, 2, level, column] * scale[level, MOVE + column]
        scores[i, 0] = scores[i, 1] = np.inf
        if fits:
            scores[i, 0] = energy
            scores[i, 1] = latency(nest, scale, temporal, spatial, perms, shares[i], counts[i], times)
