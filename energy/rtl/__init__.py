"""Small processing elements as Verilog, to simulate, to synthesise, and to hold the area laws against.

A generator is a pure function from a shape to a :class:`~energy.rtl.design.Design`: text, ports and latency.
``simulate`` runs it with Icarus Verilog, ``synthesise`` counts LUTs and gates with Yosys, ``tools`` finds both.
"""
