"""Loop nests on memory hierarchies: what a mapping moves, and the mapping that costs least.

* ``problem``: the loops of a layer; ``machine``: memories, axes and networks; ``dataflows``: which loops may run where.
* ``kernel``: access counts in closed form and the search, compiled; ``layout`` and ``space``: what it reads.
* ``search``: the best mapping of a layer, found once for its shape and priced anew for every format.
"""
