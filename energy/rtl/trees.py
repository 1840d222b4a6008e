"""Trees of adders over many lanes: ternary dot products, population counts, and bit-serial products.

All three share one module that adds pairs level by level. A register behind every level lets the clock run as fast as
one carry chain; without ``pipelined`` the tree is one combinational block, which a synthesiser is free to compress.
"""

from __future__ import annotations

from compressors.registry import check_range
from energy.rtl.design import Design, Port, levels

ADDER_TREE = """\
// Sum of N numbers of IN bits: pairs are added, then pairs of sums, LEVELS times. OUT = IN + LEVELS.
module adder_tree #(
    parameter N = 8, parameter IN = 4, parameter OUT = 7, parameter SIGNED = 0, parameter PIPELINED = 1
) (input clk, input [N*IN-1:0] x, output [OUT-1:0] y);
    localparam PAIRS = N / 2;
    localparam LEFT = (N + 1) / 2;
    localparam WIDE = IN + 1;
    generate if (N == 1) begin : done
        assign y = x;
    end else begin : level
        wire [LEFT*WIDE-1:0] sum;
        reg [LEFT*WIDE-1:0] held;
        genvar i;
        for (i = 0; i < PAIRS; i = i + 1) begin : pair
            wire [IN-1:0] a = x[2*i*IN +: IN];
            wire [IN-1:0] b = x[(2*i+1)*IN +: IN];
            if (IN == 1) begin : half
                assign sum[i*WIDE +: WIDE] = {a & b, a ^ b};
            end else begin : full
                assign sum[i*WIDE +: WIDE] = {SIGNED != 0 && a[IN-1], a} + {SIGNED != 0 && b[IN-1], b};
            end
        end
        if (N % 2) begin : odd // the last one waits for the others
            assign sum[PAIRS*WIDE +: WIDE] = {SIGNED != 0 && x[N*IN-1], x[PAIRS*2*IN +: IN]};
        end
        always @(posedge clk) held <= sum;
        adder_tree #(.N(LEFT), .IN(WIDE), .OUT(OUT), .SIGNED(SIGNED), .PIPELINED(PIPELINED)) above
            (.clk(clk), .x(PIPELINED ? held : sum), .y(y));
    end endgenerate
endmodule
"""


def ternary_mux_add(lanes: int, bits: int, *, signed: bool = False, pipelined: bool = True) -> Design:
    """Dot product of ``lanes`` numbers ``x`` with ternary weights, given as masks and signs.

    A lane adds ``x``, ``-x`` or nothing. ``-x`` is ``~x`` and a one; the ones are counted by a tree of their own.

    Args:
        lanes: numbers added; bits: width of each, two's complement if ``signed``.
        pipelined: a register behind every addition; the sum then comes after ``latency`` cycles.
    """
    _check(lanes, bits)
    depth = levels(lanes)
    term = bits + (not signed)  # ~x of an unsigned number needs a sign
    total = bits + depth + 1
    text = f"""\
// Ternary dot product: mask[i] ? (sign[i] ? -x[i] : x[i]) : 0, summed over {lanes} lanes of {bits} bits.
module ternary_mux_add #(
    parameter K = {lanes}, parameter BITS = {bits}, parameter SIGNED = {signed:d}, parameter LEVELS = {depth},
    parameter PIPELINED = {pipelined:d}
) (input clk, input [K*BITS-1:0] x, input [K-1:0] mask, input [K-1:0] sign, output [BITS+LEVELS:0] y);
    localparam TERM = SIGNED ? BITS : BITS + 1;
    wire [K*TERM-1:0] term;
    wire signed [TERM+LEVELS-1:0] sum;
    wire [LEVELS:0] ones;
    genvar i;
    generate for (i = 0; i < K; i = i + 1) begin : lane
        wire signed [BITS-1:0] value = x[i*BITS +: BITS];
        wire [TERM-1:0] wide = SIGNED ? value : {{1'b0, value}};
        assign term[i*TERM +: TERM] = {{TERM{{mask[i]}}}} & (wide ^ {{TERM{{sign[i]}}}});
    end endgenerate
    adder_tree #(.N(K), .IN(TERM), .OUT(TERM + LEVELS), .SIGNED(1), .PIPELINED(PIPELINED)) terms
        (.clk(clk), .x(term), .y(sum));
    adder_tree #(.N(K), .IN(1), .OUT(1 + LEVELS), .SIGNED(0), .PIPELINED(PIPELINED)) negated
        (.clk(clk), .x(mask & sign), .y(ones));
    wire [BITS+LEVELS:0] whole = sum + $signed({{1'b0, ones}});
    reg [BITS+LEVELS:0] held;
    always @(posedge clk) held <= whole;
    assign y = PIPELINED ? held : whole;
endmodule
"""
    ports = (
        Port("x", lanes * bits),
        Port("mask", lanes),
        Port("sign", lanes),
        Port("y", total, output=True),
    )
    asked = {"lanes": lanes, "bits": bits, "signed": int(signed), "pipelined": int(pipelined)}
    assert term + depth <= total
    return Design("ternary_mux_add", ADDER_TREE + "\n" + text, ports, (depth + 1) if pipelined else 0, asked)


def popcount_dot(lanes: int, *, xnor: bool = True, pipelined: bool = True) -> Design:
    """How many of ``lanes`` bits agree (``xnor``), or are both one: the dot product of binary numbers."""
    _check(lanes, 1)
    depth = levels(lanes)
    text = f"""\
// Population count of a {"xnor" if xnor else "and"} b over {lanes} lanes.
module popcount_dot #(
    parameter K = {lanes}, parameter XNOR = {xnor:d}, parameter LEVELS = {depth}, parameter PIPELINED = {pipelined:d}
) (input clk, input [K-1:0] a, input [K-1:0] b, output [LEVELS:0] y);
    adder_tree #(.N(K), .IN(1), .OUT(1 + LEVELS), .SIGNED(0), .PIPELINED(PIPELINED)) count
        (.clk(clk), .x(XNOR ? a ~^ b : a & b), .y(y));
endmodule
"""
    ports = (Port("a", lanes), Port("b", lanes), Port("y", depth + 1, output=True))
    asked = {"lanes": lanes, "xnor": int(xnor), "pipelined": int(pipelined)}
    return Design("popcount_dot", ADDER_TREE + "\n" + text, ports, depth if pipelined else 0, asked)


def bit_serial(lanes: int, digit: int, accumulator: int, *, signed: bool = True) -> Design:
    """Digits of ``digit`` bits of weights and inputs, multiplied, summed over ``lanes`` and accumulated by shifts.

    Digit pairs come most significant first, those of equal weight ``2**(digit * (p + q))`` one after another:
    ``acc <= (clear ? 0 : shift ? acc << digit : acc) + sum``. The sum's sign is that of each lane's product where
    digits are ``signed`` (port ``sign``), or one for all (port ``negate``: a plane with a negative factor). Controls
    are given with their digits. Numbers of 1, 2, 4 or 8 bits per digit take the serial element of that width. The
    result is there ``latency`` cycles after the last pair.

    Args:
        lanes: products summed per cycle; digit: bits of both operands' digits.
        accumulator: bits of the sum.
        signed: products have signs of their own.
    """
    _check(lanes, digit, most=16)
    depth = levels(lanes)
    least = 2 * digit + depth + 2
    check_range("accumulator", accumulator, least, 64)
    waits = depth + 2
    ports = [
        Port("clear", 1),
        Port("shift", 1),
        Port("sign", lanes) if signed else Port("negate", 1),
        Port("w", lanes * digit),
        Port("x", lanes * digit),
        Port("acc", accumulator, output=True),
    ]
    text = f"""\
// Bit-serial product of digits of {digit} bits over {lanes} lanes, with shift and accumulate.
module bit_serial #(
    parameter K = {lanes}, parameter G = {digit}, parameter ACC = {accumulator}, parameter LEVELS = {depth},
    parameter WAITS = {waits}
) (
    input clk, input clear, input shift, input {"[K-1:0] sign" if signed else "negate"},
    input [K*G-1:0] w, input [K*G-1:0] x, output reg [ACC-1:0] acc
);
{_SIGNED_SUM if signed else _UNSIGNED_SUM}
    reg [WAITS-1:0] clears, shifts; // controls travel with their sum
    always @(posedge clk) begin
        clears <= {{clears, clear}};
        shifts <= {{shifts, shift}};
    end
    wire [ACC-1:0] before = clears[WAITS-1] ? {{ACC{{1'b0}}}} : shifts[WAITS-1] ? acc << G : acc;
    always @(posedge clk) acc <= before + {{{{ACC-SUM{{sum[SUM-1]}}}}, sum}};
endmodule
"""
    asked = {"lanes": lanes, "digit": digit, "accumulator": accumulator, "signed": int(signed)}
    return Design("bit_serial", ADDER_TREE + "\n" + text, tuple(ports), waits + 1, asked)


_SIGNED_SUM = """\
    localparam TERM = 2 * G + 1;
    localparam SUM = TERM + LEVELS + 1;
    reg [K*TERM-1:0] term;
    reg [K-1:0] negative;
    genvar i;
    generate for (i = 0; i < K; i = i + 1) begin : lane
        wire [2*G-1:0] product = w[i*G +: G] * x[i*G +: G];
        always @(posedge clk) term[i*TERM +: TERM] <= {TERM{sign[i]}} ^ {1'b0, product};
    end endgenerate
    always @(posedge clk) negative <= sign;
    wire signed [TERM+LEVELS-1:0] terms;
    wire [LEVELS:0] ones;
    adder_tree #(.N(K), .IN(TERM), .OUT(TERM + LEVELS), .SIGNED(1), .PIPELINED(1)) products
        (.clk(clk), .x(term), .y(terms));
    adder_tree #(.N(K), .IN(1), .OUT(1 + LEVELS), .SIGNED(0), .PIPELINED(1)) negated
        (.clk(clk), .x(negative), .y(ones));
    reg signed [SUM-1:0] sum; // -p is ~p and a one; the ones are added here
    always @(posedge clk) sum <= terms + $signed({1'b0, ones});
"""
_UNSIGNED_SUM = """\
    localparam TERM = 2 * G;
    localparam SUM = TERM + LEVELS + 1;
    reg [K*TERM-1:0] term;
    genvar i;
    generate for (i = 0; i < K; i = i + 1) begin : lane
        always @(posedge clk) term[i*TERM +: TERM] <= w[i*G +: G] * x[i*G +: G];
    end endgenerate
    wire [TERM+LEVELS-1:0] terms;
    adder_tree #(.N(K), .IN(TERM), .OUT(TERM + LEVELS), .SIGNED(0), .PIPELINED(1)) products
        (.clk(clk), .x(term), .y(terms));
    reg [LEVELS:0] negates;
    reg signed [SUM-1:0] sum;
    always @(posedge clk) begin
        negates <= {negates, negate};
        sum <= negates[LEVELS] ? -{1'b0, terms} : {1'b0, terms};
    end
"""


def _check(lanes: int, bits: int, most: int = 32) -> None:
    check_range("lanes", lanes, 1, 1 << 14)
    check_range("bits", bits, 1, most)
