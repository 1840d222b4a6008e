"""What a systolic array does for one matrix product: cycles, words read and written, steps from element to element.

Each of the three dataflows lays two of the product's three dimensions over the rows and columns of the array and lets
the third pass by as the ``stream``:

===================  =========  =======  =========  ==============  =============  =============
dataflow             rows       columns  stream     stays           moves across   moves down
===================  =========  =======  =========  ==============  =============  =============
weight stationary    reduction  filters  pixels     weights         inputs         partial sums
input stationary     reduction  pixels   filters    inputs          weights        partial sums
output stationary    pixels     filters  reduction  partial sums    inputs         weights
===================  =========  =======  =========  ==============  =============  =============

What is larger than the array is cut into folds, and the stream may be cut into chunks that run through all folds one
after the other, so that their sums fit a memory; what stays comes in anew for each. A fold whose operand stays first
shifts that in from the top, a row a cycle, then the stream runs through, skewed by a cycle per row and column: ``rows
+ (stream + rows + columns - 2)`` cycles, however much of the array it uses. Where sums stay, a fold takes ``stream +
rows + columns - 2`` cycles and its sums leave downwards through registers of their own while the next fold runs.
These are the cycles that SCALE-Sim (Samajdar et al., ISPASS 2020) counts; its reports say one less, the number of the
last cycle from zero.

Moving operands go from element to element, as far as the last column a fold uses. Partial sums go down all the rows,
for the array gives its results at its lower edge.
"""

from __future__ import annotations

from dataclasses import dataclass

DATAFLOWS = ("weight_stationary", "output_stationary", "input_stationary")


@dataclass(frozen=True)
class Product:
    """A convolution as a matrix product: ``filters`` sums of ``reduction`` products at every pixel."""

    pixels: int
    reduction: int
    filters: int


@dataclass(frozen=True)
class Moves:
    """Words of one operand between the array and its memory, and from element to element."""

    reads: int
    writes: int
    steps: int


@dataclass(frozen=True)
class Folds:
    """A product laid over ``rows`` by ``columns`` elements; see the module's text for what lies along which side.

    ``chunks`` of the stream are not more than it is long, and one where sums stay.
    """

    dataflow: str
    product: Product
    rows: int
    columns: int
    chunks: int = 1

    @property
    def lengths(self) -> tuple[int, int, int]:
        """The product's dimensions along rows, columns and time."""
        p = self.product
        return {
            "weight_stationary": (p.reduction, p.filters, p.pixels),
            "input_stationary": (p.reduction, p.pixels, p.filters),
            "output_stationary": (p.pixels, p.filters, p.reduction),
        }[self.dataflow]

    @property
    def roles(self) -> tuple[str, str, str]:
        """The operands that stay, move across, and move down."""
        return {
            "weight_stationary": ("weights", "inputs", "outputs"),
            "input_stationary": ("inputs", "weights", "outputs"),
            "output_stationary": ("outputs", "inputs", "weights"),
        }[self.dataflow]

    @property
    def down(self) -> int:
        """Folds along the rows: how often sums that move down are added to, or what moves down is read."""
        return -(-self.lengths[0] // self.rows)

    @property
    def across(self) -> int:
        """Folds along the columns: how often what moves across is read."""
        return -(-self.lengths[1] // self.columns)

    def cycles(self, preload: bool = True) -> int:
        """Cycles of all folds; without ``preload`` the operand that stays comes in while the fold before runs."""
        folds = self.down * self.across
        run = folds * (self.lengths[2] + self.chunks * (self.rows + self.columns - 2))
        if self.dataflow == "output_stationary":
            return run
        return run + self.rows * (folds * self.chunks if preload else 1)

    def moves(self) -> dict[str, Moves]:
        """Operand -> words moved; ``writes`` go from the array to memory."""
        along_rows, along_columns, stream = self.lengths
        stays, crosses, falls = self.roles
        crossing = Moves(
            reads=along_rows * stream * self.across,
            writes=0,
            steps=along_rows * stream * (along_columns - self.across),
        )
        if stays == "outputs":
            staying = Moves(0, along_rows * along_columns, along_columns * self._ways_out(along_rows))
            falling = Moves(
                reads=along_columns * stream * self.down,
                writes=0,
                steps=along_columns * stream * (along_rows - self.down),
            )
        else:
            staying = Moves(
                reads=along_rows * along_columns * self.chunks,
                writes=0,
                steps=along_columns * self._ways_in(along_rows) * self.chunks,
            )
            falling = Moves(
                reads=along_columns * stream * (self.down - 1),
                writes=along_columns * stream * self.down,
                steps=along_columns * stream * self.down * (self.rows - 1),
            )
        return {stays: staying, crosses: crossing, falls: falling}

    def _ways_in(self, length: int) -> int:
        """Steps from the top into every row that a column uses, over all folds."""
        full, rest = divmod(length, self.rows)
        return full * (self.rows * (self.rows - 1) // 2) + rest * (rest - 1) // 2

    def _ways_out(self, length: int) -> int:
        """Steps from every row that a column uses down to the last row, over all folds."""
        return length * (self.rows - 1) - self._ways_in(length)
