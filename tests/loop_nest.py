"""A loop nest run turn by turn, words kept as sets and counted as they move: what closed forms are held against.

Nothing of the code under test is used. A mapping is ``turns``, for each level the loops that run at it as ``(dim, n)``
from the innermost outwards, and ``unrolled``, the same for each axis.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Loop = tuple[str, int]
WINDOW = ("Y", "X", "FY", "FX")
PARTNER = {"Y": "FY", "FY": "Y", "X": "FX", "FX": "X"}
RELEVANT = {
    "weights": ("G", "K", "C", "FY", "FX"),
    "inputs": ("B", "G", "C", "Y", "X", "FY", "FX"),
    "outputs": ("B", "G", "K", "Y", "X"),
}


@dataclass(frozen=True)
class Store:
    """A memory: what it keeps, whether it fetches what is new of a window alone, the axes directly beneath it."""

    keeps: tuple[str, ...]
    slides: bool = True
    axes: int = 0
    network: str = "bus"
    halo: bool = True


class Nest:
    """``stores`` from the innermost outwards; ``turns`` one list for each, ``unrolled`` one for each axis."""

    def __init__(
        self,
        stores: Sequence[Store],
        turns: Sequence[Sequence[Loop]],
        unrolled: Sequence[Sequence[Loop]],
        stride: tuple[int, int],
        dilation: tuple[int, int],
    ) -> None:
        self.stores, self.turns, self.unrolled = stores, turns, unrolled
        self.stride, self.dilation = stride, dilation
        self.axes_of: list[list[int]] = []  # level -> axes directly beneath it
        first = 0
        for store in stores:
            self.axes_of.append(list(range(first, first + store.axes)))
            first += store.axes
        # from the least to the most significant: axes beneath a level, then the level's own loops
        self.slots: list[tuple[str, int, int, str, int]] = []
        for level in range(len(stores)):
            for axis in self.axes_of[level]:
                self.slots += [("axis", axis, i, d, n) for i, (d, n) in enumerate(unrolled[axis])]
            self.slots += [("level", level, i, d, n) for i, (d, n) in enumerate(turns[level])]
        self.reads: Counter[tuple[int, str]] = Counter()
        self.writes: Counter[tuple[int, str]] = Counter()
        self.moves: Counter[tuple[int, str]] = Counter()

    def run(self) -> None:
        for operand in RELEVANT:
            kept = [-1, *(i for i, store in enumerate(self.stores) if operand in store.keeps)]
            for inner, outer in zip(kept, kept[1:], strict=False):
                if operand == "outputs":
                    self._sums(inner, outer, innermost=inner == kept[1])
                else:
                    self._operand(operand, inner, outer)

    # where things are

    def _axes_outside(self, inner: int) -> list[int]:
        return [axis for level in range(inner + 1, len(self.stores)) for axis in self.axes_of[level]]

    def _times(self, inner: int) -> Iterator[dict[tuple[str, int, int], int]]:
        """Indices of the loops outside a level, in the order they run."""
        loops = [
            (kind, where, i, n) for kind, where, i, _, n in self.slots if kind == "level" and where > inner
        ]
        # slots are in order of significance within a level only because a level's loops run in that order
        for turn in itertools.product(*(range(n) for *_, n in reversed(loops))):
            yield {
                (kind, where, i): index
                for (kind, where, i, _), index in zip(reversed(loops), turn, strict=True)
            }

    def _positions(self, inner: int) -> Iterator[dict[tuple[str, int, int], int]]:
        """Indices along all axes outside a level."""
        outside = self._axes_outside(inner)
        loops = [
            (kind, where, i, n) for kind, where, i, _, n in self.slots if kind == "axis" and where in outside
        ]
        for place in itertools.product(*(range(n) for *_, n in loops)):
            yield {(kind, where, i): index for (kind, where, i, _), index in zip(loops, place, strict=True)}

    def _coordinates(self, fixed: dict[tuple[str, int, int], int]) -> Iterator[dict[str, int]]:
        """Loop indices by dim of everything inside, with the loops in ``fixed`` standing still."""
        ranges = [
            (fixed[kind, where, i],) if (kind, where, i) in fixed else range(n)
            for kind, where, i, _, n in self.slots
        ]
        for indices in itertools.product(*ranges):
            at: dict[str, int] = defaultdict(int)
            weight: dict[str, int] = defaultdict(lambda: 1)
            for (*_, d, n), index in zip(self.slots, indices, strict=True):
                at[d] += index * weight[d]
                weight[d] *= n
            yield at

    def _word(self, operand: str, at: dict[str, int]) -> tuple[int, ...]:
        if operand != "inputs":
            return tuple(at[d] for d in RELEVANT[operand])
        row = self.stride[0] * at["Y"] + self.dilation[0] * at["FY"]
        column = self.stride[1] * at["X"] + self.dilation[1] * at["FX"]
        return at["B"], at["G"], at["C"], row, column

    def _tile(self, operand: str, fixed: dict[tuple[str, int, int], int]) -> frozenset[tuple[int, ...]]:
        return frozenset(self._word(operand, at) for at in self._coordinates(fixed))

    def _where(self, operand: str, time: dict[tuple[str, int, int], int]) -> dict[str, int]:
        """Which tile, counted along each relevant dim."""
        at: dict[str, int] = defaultdict(int)
        weight: dict[str, int] = defaultdict(lambda: 1)
        for kind, where, i, d, n in self.slots:
            if (kind, where, i) in time and d in RELEVANT[operand]:
                at[d] += time[kind, where, i] * weight[d]
                weight[d] *= n
        return dict(at)

    # weights and inputs

    def _operand(self, operand: str, inner: int, outer: int) -> None:
        outside = self._axes_outside(inner)
        spread = {d for axis in outside for d, n in self.unrolled[axis] if n > 1}
        spread |= {PARTNER.get(d, d) for d in spread}
        places = list(self._positions(inner))
        before: dict[int, Any] = {}
        last: dict[str, int] | None = None
        for time in self._times(inner):
            now = self._where(operand, time)
            if inner >= 0 and now == last:
                continue
            steps = {d: now[d] - last[d] for d in now if now[d] != last[d]} if last is not None else {}
            slides = operand == "inputs" and inner >= 0 and self.stores[inner].slides
            slides = slides and list(steps.values()) == [1] and not steps.keys() & spread
            fetched = []
            for number, place in enumerate(places):
                tile = self._tile(operand, {**time, **place})
                new = tile - before[number] if slides else tile
                before[number] = tile
                fetched.append((place, {((), word) for word in new}))
            last = now
            self._fetch(operand, inner, outer, fetched)

    def _fetch(self, operand: str, inner: int, outer: int, fetched: list[tuple[Any, Any]]) -> None:
        amount = sum(len(words) for _, words in fetched)
        if inner >= 0:
            self.writes[inner, operand] += amount
        apart: set[str] = set()
        for level in range(inner + 1, outer + 1):
            axes = self.axes_of[level]
            if not axes:
                continue
            store = self.stores[level]
            between = {d for turns in self.turns[inner + 1 : level] for d, n in turns if n > 1}
            apart |= set(WINDOW) & between if store.halo else set(WINDOW)
            groups: dict[Any, Any] = {}
            for place, words in fetched:
                here = {key: index for key, index in place.items() if key[1] in axes}
                rest = {key: index for key, index in place.items() if key[1] not in axes}
                tag: tuple[Any, ...] = ()
                if store.network == "unicast":
                    tag = tuple(sorted(here.items()))
                    apart |= set(WINDOW)
                elif operand == "inputs":
                    tag = tuple(sorted((k, i) for k, i in here.items() if self._dim(k) in apart))
                tagged = {((*tags, *tag), word) for tags, word in words}
                key = tuple(sorted(rest.items()))
                _, found = groups.setdefault(key, (rest, set()))
                found |= tagged
            fetched = list(groups.values())
            taken = sum(len(words) for _, words in fetched)
            self.moves[level, operand] += amount - taken if store.network == "systolic" else amount
            amount = taken
        self.reads[outer, operand] += amount

    def _dim(self, key: tuple[str, int, int]) -> str:
        return next(d for kind, where, i, d, _ in self.slots if (kind, where, i) == key)

    # outputs

    def _sums(self, inner: int, outer: int, innermost: bool) -> None:
        places = list(self._positions(inner))
        done: dict[int, Counter[Any]] = {number: Counter() for number in range(len(places))}
        reduction = 1
        for *_, d, n in self.slots:
            reduction *= n if d in ("C", "FY", "FX") else 1
        seen: set[Any] = set()
        stay: list[Any] = []  # a residency: tiles of every position, with what they added to each word
        last = None
        for time in self._times(inner):
            now = self._where("outputs", time)
            if inner < 0 or now != last:
                if stay:
                    self._leave(inner, outer, places, stay, done, reduction, innermost)
                stay = [self._tile("outputs", {**time, **place}) for place in places]
                if str(now) in seen:
                    self._come_back(inner, outer, places, stay)
                seen.add(str(now))
                last = now
            for number, place in enumerate(places):
                for at in self._coordinates({**time, **place}):
                    done[number][self._word("outputs", at)] += 1
        self._leave(inner, outer, places, stay, done, reduction, innermost)

    def _join(self, inner: int, outer: int, places: Any, stay: Any) -> Iterator[tuple[int, list[Any]]]:
        """Positions that reduce the same word together, level by level: ``(level, [(rest, {word: members})])``."""
        groups = [(place, {word: [number] for word in stay[number]}) for number, place in enumerate(places)]
        yield inner, groups
        for level in range(inner + 1, outer + 1):
            axes = self.axes_of[level]
            if not axes:
                continue
            joined: dict[Any, Any] = {}
            for place, words in groups:
                rest = {key: index for key, index in place.items() if key[1] not in axes}
                _, found = joined.setdefault(tuple(sorted(rest.items())), (rest, {}))
                for word, members in words.items():
                    found.setdefault(word, []).extend(members)
            groups = list(joined.values())
            yield level, groups

    def _leave(
        self, inner: int, outer: int, places: Any, stay: Any, done: Any, reduction: int, innermost: bool
    ) -> None:
        amount, groups = 0, []
        for level, groups in self._join(inner, outer, places, stay):
            joined = sum(len(words) for _, words in groups)
            if level > inner:
                self.moves[level, "partial"] += amount - joined
            amount = joined
        if inner >= 0:
            for number, tile in enumerate(stay):
                for word in tile:
                    whole = done[number][word] == reduction and not innermost
                    self.reads[inner, "final" if whole else "partial"] += 1
        for _, words in groups:
            for word, members in words.items():
                whole = inner >= 0 and sum(done[m][word] for m in members) == reduction
                self.writes[outer, "final" if whole else "partial"] += 1

    def _come_back(self, inner: int, outer: int, places: Any, stay: Any) -> None:
        *_, (_, groups) = self._join(inner, outer, places, stay)
        words = sum(len(words) for _, words in groups)
        self.reads[outer, "partial"] += words
        if inner >= 0:
            self.writes[inner, "partial"] += words
