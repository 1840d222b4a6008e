"""Arithmetic in content-addressable memory: pass tables, programs of them, circuits and racetracks."""
