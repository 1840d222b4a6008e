"""Run by ZigZag's own interpreter: energy, cycles and seconds of each layer of a list, as JSON on the last line.

``python zigzag_layers.py LAYERS.json``; a layer is ``[name, outputs, inputs, kernel, output size]``, 8 bits throughout.
"""

import io
import json
import logging
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import zigzag
from zigzag.api import get_hardware_performance_zigzag

INPUTS = Path(zigzag.__file__).parent / "inputs"


def described(name, outputs, inputs, kernel, size):
    return {
        "id": 0,
        "name": name,
        "operator_type": "Conv",
        "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
        "dimension_relations": ["ix=1*ox+1*fx", "iy=1*oy+1*fy"],
        "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"],
        "loop_sizes": [1, outputs, inputs, size, size, kernel, kernel],
        "operand_precision": {"W": 8, "I": 8, "O": 16, "O_final": 8},
        "operand_source": {"I": 0},
        "padding": [[kernel // 2, kernel // 2]] * 2,
        "pr_loop_dims": ["IX", "IY"],
        "pr_loop_sizes": [size, size],
    }


def main():
    logging.disable(logging.CRITICAL)
    found = {}
    for layer in json.loads(Path(sys.argv[1]).read_text()):
        with (
            tempfile.TemporaryDirectory() as folder,
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            start = time.perf_counter()
            energy, cycles, _ = get_hardware_performance_zigzag(
                [described(*layer)],
                str(INPUTS / "hardware" / "tpu_like.yaml"),
                str(INPUTS / "mapping" / "tpu_like.yaml"),
                opt="energy",
                lpf_limit=6,
                dump_folder=folder,
                loma_show_progress_bar=False,
            )
            seconds = time.perf_counter() - start
        found[layer[0]] = {"energy_pj": float(energy), "cycles": float(cycles), "seconds": seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
