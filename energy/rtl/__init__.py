"""Small processing elements as Verilog, to simulate, to synthesise, and to hold the area laws against.

A generator is a pure function from a shape to a :class:`~energy.rtl.design.Design`: the text, its ports and its latency.
``simulate`` runs it with Icarus Verilog, ``synthesise`` counts LUTs and gates with Yosys, ``tools`` finds both.
"""
