"""Common subexpressions of signed digits, and the graph of adders they leave.

A matrix of digits in {-1, 0, 1} is a sum per output: digit ``(row, offset, column)`` adds ``+-(column << offset)``.
Two-term greedy elimination (Paar 1997; with shifts, Hartley 1996) takes the pair ``a +- (b << shift)`` that occurs
most often, makes it a new column, and goes on while a pair occurs twice. No table of pair counts is kept: a column
has an upper bound of its best count, which can only fall, and is counted anew when it comes to the front.

A column is counted against all others in one of two ways, whichever does less. Broad columns are row-bitsets ``P``
and ``N`` (where it is added, where subtracted), of which ``popcount(Pi & Pj | Ni & Nj)`` and
``popcount(Pi & Nj | Ni & Pj)`` are the counts of the pair's sum and difference. Narrow columns walk through what else
stands in their rows. Places are numbered ``row * span + offset`` with ``span = 2 * offsets - 1``, so that adding a
difference of offsets never leads to another row's digits.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic

from compressors.errors import BadTensor

_BARRED = -(1 << 30)
_LANES = 8  # words that one vector instruction counts; weighs the two ways of counting against each other


@intrinsic
def _ctpop(typingctx, word):  # type: ignore[no-untyped-def]
    """LLVM's population count of one uint64."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


# an intrinsic exists in compiled code alone; with NUMBA_DISABLE_JIT the kernels run as plain Python
_popcount = np.bitwise_count if config.DISABLE_JIT else _ctpop


class _State(NamedTuple):
    """What elimination works on; ``columns`` below counts inputs and sums alike, as far as there is room.

    An entry is ``place << 1 | negative`` in a column's list, ``(column * span + offset) << 1 | negative`` in a row's.
    """

    span: int
    column_start: np.ndarray  # [columns] where a column's entries begin in `column_entry`
    weight: np.ndarray  # [columns] digits of a column, which are its entries
    column_entry: np.ndarray
    row_start: np.ndarray  # [rows + 1]
    row_active: np.ndarray  # [rows] entries that may still pair; those that cannot are kept from the end on
    row_done: np.ndarray  # [rows]
    row_entry: np.ndarray
    bound: np.ndarray  # [columns] no pair of the column occurs more often
    count: np.ndarray  # [columns * span * 2] scratch, zero between uses
    digit: np.ndarray  # [rows * span] scratch: 0, or 1 + negative
    stamp: np.ndarray  # [rows * span] scratch
    bits: (
        np.ndarray
    )  # [2, words, slots] P and N by word, then by slot: neighbours in memory are other columns
    slot_of: np.ndarray  # [columns]
    column_in: np.ndarray  # [slots]
    heap: np.ndarray
    slot_weight: np.ndarray  # [slots]
    pair: np.ndarray  # [columns] key of the best pair when last counted
    counted: np.ndarray  # [columns] and how many columns there were then
    sizes: np.ndarray  # see below


# places in `sizes`: columns, slots in use (or -1: no bitsets), heap in use, stamps given, end of `column_entry`
_COLUMNS, _SLOTS, _HEAP, _STAMP, _END = range(5)
_BOUND_BITS, _WEIGHT_BITS, _COLUMN_BITS = 20, 20, 23  # of a key in the heap


@njit(cache=True, nogil=True)
def _push(state, column):  # type: ignore[no-untyped-def]
    """Queue a column: highest bound first, then least weight (sharing what is rare keeps more choice for later)."""
    bound, weight = state.bound[column], state.weight[column]
    key = ((((1 << _BOUND_BITS) - 1 - bound) << _WEIGHT_BITS | weight) << _COLUMN_BITS) | column
    heap = state.heap
    at = state.sizes[_HEAP]
    state.sizes[_HEAP] += 1
    while at > 0 and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key


@njit(cache=True, nogil=True)
def _pop(state):  # type: ignore[no-untyped-def]
    """The first column in the queue whose key still says the truth, or -1."""
    heap = state.heap
    while state.sizes[_HEAP] > 0:
        key = heap[0]
        state.sizes[_HEAP] -= 1
        used = state.sizes[_HEAP]
        last = heap[used]
        at = 0
        while 2 * at + 1 < used:
            child = 2 * at + 1
            if child + 1 < used and heap[child + 1] < heap[child]:
                child += 1
            if heap[child] >= last:
                break
            heap[at] = heap[child]
            at = child
        heap[at] = last
        column = key & ((1 << _COLUMN_BITS) - 1)
        weight = (key >> _COLUMN_BITS) & ((1 << _WEIGHT_BITS) - 1)
        bound = (1 << _BOUND_BITS) - 1 - (key >> (_COLUMN_BITS + _WEIGHT_BITS))
        if state.bound[column] == bound and state.weight[column] == weight:
            return column
    return -1


@njit(cache=True, nogil=True)
def _count_in_bitsets(state, column, same, different):  # type: ignore[no-untyped-def]
    """Best pair of a column by popcounts over all columns at once: how often, and ``partner << 1 | negative``."""
    slots, own = state.sizes[_SLOTS], state.slot_of[column]
    same, different = same[:slots], different[:slots]
    same[:] = 0
    different[:] = 0
    for w in range(state.bits.shape[1]):
        plus, minus = state.bits[0, w, own], state.bits[1, w, own]
        if plus | minus != 0:
            others_plus, others_minus = state.bits[0, w, :slots], state.bits[1, w, :slots]
            for j in range(slots):
                p, n = others_plus[j], others_minus[j]
                same[j] += np.int64(_popcount(plus & p | minus & n))
                different[j] += np.int64(_popcount(plus & n | minus & p))
    same[own] = 0
    different[own] = 0
    weights = state.slot_weight[:slots]
    key = np.int64(-1 << 62)
    for j in range(slots):
        key = max(key, (max(same[j], different[j]) << _WEIGHT_BITS) - weights[j])
    j = 0
    while (max(same[j], different[j]) << _WEIGHT_BITS) - weights[j] != key:
        j += 1
    return max(same[j], different[j]), state.column_in[j] << 1 | (different[j] > same[j])


@njit(cache=True, nogil=True)
def _count_in_rows(state, column):  # type: ignore[no-untyped-def]
    """Best pair of a column by a walk through its rows: how often, and its key.

    The key is ``(partner * span + shift + offsets - 1) << 1 | negative``, with the partner's offset less the column's
    as the shift.
    """
    span, count = state.span, state.count
    own = count[column * span * 2 : (column + 1) * span * 2]
    own[:] = _BARRED
    begin = state.column_start[column]
    best, best_key = 1, -1
    for index in range(begin, begin + state.weight[column]):
        place, negative = state.column_entry[index] >> 1, state.column_entry[index] & 1
        row = place // span
        move = 2 * ((span >> 1) - place % span)
        first = state.row_start[row]
        for entry in state.row_entry[first : first + state.row_active[row]]:
            key = (entry + move) ^ negative
            count[key] += 1
            if count[key] >= best:
                if count[key] > best:
                    best, best_key = count[key], key
                elif best > 1 and state.weight[(key >> 1) // span] < state.weight[(best_key >> 1) // span]:
                    best_key = key
    for index in range(begin, begin + state.weight[column]):
        place = state.column_entry[index] >> 1
        row = place // span
        move = 2 * ((span >> 1) - place % span)
        first = state.row_start[row]
        for entry in state.row_entry[first : first + state.row_active[row]]:
            count[entry + move] = 0
            count[(entry + move) ^ 1] = 0
    own[:] = 0
    return best, best_key


@njit(cache=True, nogil=True)
def _count_with_itself(state, column):  # type: ignore[no-untyped-def]
    """Best pair of a column with itself shifted: how often, disjointly, and its key.

    Equal steps lead along chains of digits, so that matching from the lowest up is a largest matching.
    """
    span, digit, stamp = state.span, state.digit, state.stamp
    begin = state.column_start[column]
    entries = state.column_entry[begin : begin + state.weight[column]]
    for entry in entries:
        digit[entry >> 1] = 1 + (entry & 1)
    best, best_key = 1, -1
    for shift in range(1, (span >> 1) + 1):
        for negative in range(2):
            state.sizes[_STAMP] += 1
            now, found = state.sizes[_STAMP], 0
            for entry in entries:
                place = entry >> 1
                other = place + shift
                if stamp[place] != now and digit[other] == 1 + ((entry & 1) ^ negative):
                    stamp[other] = now
                    found += 1
            if found > best:
                best, best_key = found, (column * span + shift + (span >> 1)) << 1 | negative
    for entry in entries:
        digit[entry >> 1] = 0
    return best, best_key


@njit(cache=True, nogil=True)
def _set_bit(state, column, entry, present):  # type: ignore[no-untyped-def]
    """Put a digit into a column's bitset, or take it out."""
    row, negative = entry >> 1, entry & 1
    mask = np.uint64(1) << np.uint64(row & 63)
    if present:
        state.bits[negative, row >> 6, state.slot_of[column]] |= mask
    else:
        state.bits[negative, row >> 6, state.slot_of[column]] &= ~mask


@njit(cache=True, nogil=True)
def _copy_slot(state, slot, source):  # type: ignore[no-untyped-def]
    """A slot's bitsets become another's, or empty where there is no source (assigning slices compiles for seconds)."""
    for sign in range(2):
        for w in range(state.bits.shape[1]):
            state.bits[sign, w, slot] = state.bits[sign, w, source] if source >= 0 else np.uint64(0)


@njit(cache=True, nogil=True)
def _take_slot(state, column):  # type: ignore[no-untyped-def]
    slot = state.sizes[_SLOTS]
    if slot == state.column_in.shape[0]:
        state.sizes[_SLOTS] = -1  # many narrow columns: rows alone from here on
        return
    state.sizes[_SLOTS] += 1
    state.slot_of[column] = slot
    state.column_in[slot] = column
    state.slot_weight[slot] = state.weight[column]
    _copy_slot(state, slot, -1)


@njit(cache=True, nogil=True)
def _retire(state, column):  # type: ignore[no-untyped-def]
    """No pair of this column will ever occur twice: out of the way of those that are still counted."""
    span = state.span
    state.bound[column] = 0
    begin = state.column_start[column]
    for own in state.column_entry[begin : begin + state.weight[column]]:
        row = (own >> 1) // span
        entry = (column * span + (own >> 1) % span) << 1 | (own & 1)
        at, end = state.row_start[row], state.row_start[row + 1]
        while state.row_entry[at] != entry:
            at += 1
        state.row_active[row] -= 1
        state.row_entry[at] = state.row_entry[state.row_start[row] + state.row_active[row]]
        state.row_done[row] += 1
        state.row_entry[end - state.row_done[row]] = entry
    if state.sizes[_SLOTS] >= 0:
        slot = state.slot_of[column]
        state.sizes[_SLOTS] -= 1
        last = state.sizes[_SLOTS]
        _copy_slot(state, slot, last)
        state.column_in[slot] = state.column_in[last]
        state.slot_weight[slot] = state.slot_weight[last]
        state.slot_of[state.column_in[slot]] = slot


@njit(cache=True, nogil=True)
def _settle(state, column):  # type: ignore[no-untyped-def]
    """Queue a column, unless it has too few digits for a pair to occur twice."""
    if state.weight[column] < 2:
        _retire(state, column)
    else:
        _push(state, column)


@njit(cache=True, nogil=True)
def _replace(state, place, left, right, shift, negative, column):  # type: ignore[no-untyped-def]
    """In one row: two entries become the new column's. ``negative`` holds the left's and the right's sign."""
    span = state.span
    row, offset = place // span, place % span
    old_left = (left * span + offset) << 1 | negative[0]
    old_right = (right * span + offset + shift) << 1 | negative[1]
    first, active = state.row_start[row], state.row_active[row]
    entries = state.row_entry[first : first + active]
    gap = 0
    for k in range(active):
        if entries[k] == old_left:
            entries[k] = (column * span + offset) << 1 | negative[0]
        elif entries[k] == old_right:
            gap = k
    entries[gap] = entries[active - 1]
    state.row_active[row] -= 1


@njit(cache=True, nogil=True)
def _keep_unmatched(state, column):  # type: ignore[no-untyped-def]
    """Drop a column's entries whose digit was cleared, and clear the others' digits."""
    begin = state.column_start[column]
    kept = begin
    for index in range(begin, begin + state.weight[column]):
        entry = state.column_entry[index]
        if state.digit[entry >> 1]:
            state.column_entry[kept] = entry
            kept += 1
            state.digit[entry >> 1] = 0
        elif state.sizes[_SLOTS] >= 0:
            _set_bit(state, column, entry, False)
    state.weight[column] = kept - begin
    if state.sizes[_SLOTS] >= 0:
        state.slot_weight[state.slot_of[column]] = kept - begin


@njit(cache=True, nogil=True)
def _extract(state, left, right, shift, negative):  # type: ignore[no-untyped-def]
    """Make ``left +- (right << shift)`` a column wherever it occurs; returns it."""
    digit, sizes = state.digit, state.sizes
    column = sizes[_COLUMNS]
    sizes[_COLUMNS] += 1
    state.column_start[column] = sizes[_END]
    if state.sizes[_SLOTS] >= 0:
        _take_slot(state, column)
    begin = state.column_start[right]
    for entry in state.column_entry[begin : begin + state.weight[right]]:
        digit[entry >> 1] = 1 + (entry & 1)
    begin, kept = state.column_start[left], state.column_start[left]
    for index in range(begin, begin + state.weight[left]):
        entry = state.column_entry[index]
        place, sign = entry >> 1, entry & 1
        if digit[place + shift] == 1 + (sign ^ negative) and (left != right or digit[place]):
            digit[place + shift] = 0
            if left == right:
                digit[place] = 0
            state.column_entry[sizes[_END]] = entry
            sizes[_END] += 1
            _replace(state, place, left, right, shift, (sign, sign ^ negative), column)
            if state.sizes[_SLOTS] >= 0:
                _set_bit(state, column, entry, True)
                _set_bit(state, left, entry, False)
        elif left != right:
            state.column_entry[kept] = entry
            kept += 1
    if left != right:
        state.weight[left] = kept - begin
        if state.sizes[_SLOTS] >= 0:
            state.slot_weight[state.slot_of[left]] = kept - begin
    _keep_unmatched(state, right)
    state.weight[column] = sizes[_END] - state.column_start[column]
    state.bound[column] = state.weight[column]
    if state.sizes[_SLOTS] >= 0:
        state.slot_weight[state.slot_of[column]] = state.weight[column]
    return column


@njit(cache=True, nogil=True)
def _best_pair(state, column, same, different):  # type: ignore[no-untyped-def]
    """How often the best pair of a column occurs, and its key, counted in the cheaper way."""
    span, begin = state.span, state.column_start[column]
    walk, words, last = 0, 0, -1
    for entry in state.column_entry[begin : begin + state.weight[column]]:
        row = (entry >> 1) // span
        walk += state.row_active[row]
        words += row >> 6 != last
        last = row >> 6
    if 0 <= state.sizes[_SLOTS] * (words + 1) < _LANES * walk:
        return _count_in_bitsets(state, column, same, different)
    best, key = _count_in_rows(state, column)
    if span > 1:
        own, own_key = _count_with_itself(state, column)
        if own > best:
            return own, own_key
    return best, key


@njit(cache=True, nogil=True)
def _eliminate(state, pairs, same, different):  # type: ignore[no-untyped-def]
    """Extract pairs until none occurs twice; ``pairs [steps, 4]``: left, right, shift, right is subtracted."""
    span, made = state.span, 0
    for column in range(state.sizes[_COLUMNS]):
        _settle(state, column)
    while True:
        column = _pop(state)
        if column < 0 or state.bound[column] < 2:
            return made
        if state.counted[column] != made:
            best, state.pair[column] = _best_pair(state, column, same, different)
            state.counted[column] = made
            if best < 2:
                _retire(state, column)
                continue
            if best < state.bound[column]:
                state.bound[column] = best
                _push(state, column)
                continue
        key = state.pair[column]
        other, shift, negative = (key >> 1) // span, (key >> 1) % span - (span >> 1), key & 1
        left, right = (column, other) if shift >= 0 else (other, column)
        pairs[made, 0], pairs[made, 1], pairs[made, 2], pairs[made, 3] = left, right, abs(shift), negative
        made += 1
        new = _extract(state, left, right, abs(shift), negative)
        _settle(state, left)
        _settle(state, new)
        if left != right:
            _settle(state, right)


@njit(cache=True, nogil=True)
def _fill(state, digits):  # type: ignore[no-untyped-def]
    """Entries of all columns and rows of ``digits [offsets, rows, columns]``."""
    span = state.span
    offsets, rows, columns = digits.shape
    for row in range(rows):
        for offset in range(offsets):
            source = digits[offset, row]
            for column in range(columns):
                if source[column]:
                    negative = 1 if source[column] < 0 else 0
                    at = state.column_start[column] + state.weight[column]
                    state.column_entry[at] = (row * span + offset) << 1 | negative
                    state.weight[column] += 1
                    at = state.row_start[row] + state.row_active[row]
                    state.row_entry[at] = (column * span + offset) << 1 | negative
                    state.row_active[row] += 1
    for column in range(columns):
        state.bound[column] = state.weight[column]
        if state.sizes[_SLOTS] >= 0:
            _take_slot(state, column)
            begin = state.column_start[column]
            for entry in state.column_entry[begin : begin + state.weight[column]]:
                _set_bit(state, column, entry, True)


def _remaining(state: _State) -> tuple[np.ndarray, np.ndarray]:
    """Where each row's entries begin, and what every row still adds, in the order of columns."""
    counts = state.row_active + state.row_done
    kept = np.zeros(len(state.row_entry) + 1, np.int64)  # +1 where a run of entries begins, -1 behind it
    np.add.at(kept, state.row_start[:-1], 1)
    np.add.at(kept, state.row_start[:-1] + state.row_active, -1)
    np.add.at(kept, state.row_start[1:] - state.row_done, 1)
    np.add.at(kept, state.row_start[1:], -1)
    entries = state.row_entry[np.cumsum(kept)[:-1] > 0]
    order = np.lexsort((entries, np.repeat(np.arange(len(counts)), counts)))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), entries[order]


def eliminate(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Common subexpressions of a matrix of signed digits.

    Args:
        digits: ``int8 [offsets, N, K]`` in {-1, 0, 1}; the matrix is ``sum_o 2**o * digits[o]``.

    Returns:
        ``int64 [steps, 4]``: left column, right column, shift and whether right is subtracted; step ``s`` makes
        column ``K + s = left +- (right << shift)``. Then what every row still adds: ``int64 [N + 1]``, where its
        entries begin, and the entries ``(column * (2 * offsets - 1) + offset) << 1 | negative``.

    Raises:
        BadTensor: more digits, rows or columns than places in the queue's keys are numbered for.
    """
    offsets, rows, inputs = digits.shape
    digits = np.ascontiguousarray(digits, np.int8)
    in_column, in_row = np.count_nonzero(digits, (0, 1)), np.count_nonzero(digits, (0, 2))
    total, span = int(in_row.sum()), 2 * offsets - 1
    columns = inputs + total // 2  # a step that shares g >= 2 pairs leaves g digits fewer
    if columns >= 1 << _COLUMN_BITS or rows * offsets >= 1 << _WEIGHT_BITS:
        raise BadTensor(
            f"{total} digits in {rows} rows and {inputs} columns are too many to eliminate at once; "
            "share within smaller blocks"
        )
    slots = min(columns, 3 * inputs + 64) if offsets == 1 else 0
    start = np.zeros(columns, np.int64)
    start[1:inputs] = np.cumsum(in_column)[: max(inputs - 1, 0)]
    row_start = np.zeros(rows + 1, np.int64)
    np.cumsum(in_row, out=row_start[1:])
    state = _State(
        span=span,
        column_start=start,
        weight=np.zeros(columns, np.int64),
        column_entry=np.empty(2 * total, np.int64),
        row_start=row_start,
        row_active=np.zeros(rows, np.int64),
        row_done=np.zeros(rows, np.int64),
        row_entry=np.empty(total, np.int64),
        bound=np.zeros(columns, np.int64),
        count=np.zeros(columns * span * 2, np.int32),
        digit=np.zeros(rows * span, np.int8),
        stamp=np.zeros(rows * span, np.int64),
        bits=np.zeros((2, -(-rows // 64), slots), np.uint64),
        slot_of=np.zeros(columns, np.int64),
        column_in=np.zeros(slots, np.int64),
        heap=np.empty(columns * 3 + 3 + inputs, np.int64),
        slot_weight=np.zeros(slots, np.int64),
        pair=np.zeros(columns, np.int64),
        counted=np.full(columns, -1, np.int64),
        sizes=np.array([inputs, 0 if slots else -1, 0, 0, total], np.int64),
    )
    pairs = np.empty((total // 2, 4), np.int64)
    _fill(state, digits)
    made = _eliminate(state, pairs, np.empty(slots, np.int64), np.empty(slots, np.int64))
    return pairs[:made].copy(), *_remaining(state)
