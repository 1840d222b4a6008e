"""Run by nn-dataflow's own interpreter: cost and accesses of its AlexNet on an Eyeriss-like machine, as JSON.

One multiply-accumulate costs 1; batch 4, 12 x 14 elements, 512 bytes of registers each, 108 kB of shared buffer.
"""

import io
import json
import time
from contextlib import redirect_stderr, redirect_stdout

import nn_dataflow.tools.nn_dataflow_search as tool


def main():
    words = [
        "alex_net",
        "--batch",
        "4",
        "--nodes",
        "1",
        "1",
        "--array",
        "12",
        "14",
        "--regf",
        "512",
        "--gbuf",
        "110592",
    ]
    arguments = tool.argparser().parse_args(words)
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        result = tool.do_scheduling(arguments)
    result["seconds"] = time.perf_counter() - start
    print(json.dumps({k: v for k, v in result.items() if isinstance(v, (int, float, list))}, default=str))


if __name__ == "__main__":
    main()
