"""Run by SCALE-Sim's own interpreter: cycles and seconds of each layer of a list, as JSON on the last line.

``python scalesim_layers.py LAYERS.json ROWS COLUMNS DATAFLOW``; a layer is ``[name, outputs, inputs, kernel, output
size]``. No stalls: the scratch pads are large and the bandwidth is that of the array.
"""

import csv
import io
import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from scalesim.scale_sim import scalesim

CONFIG = """[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 65536
FilterSramSzkB: 65536
OfmapSramSzkB: 65536
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 10
Dataflow: {dataflow}
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""
TOPOLOGY = (
    "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
)


def main():
    layers = json.loads(Path(sys.argv[1]).read_text())
    rows, columns, dataflow = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    found = {}
    for name, outputs, inputs, kernel, size in layers:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            root = Path(folder)
            padded = size + kernel - 1
            config, topology, layout = (root / f for f in ("run.cfg", "layers.csv", "layout.csv"))
            config.write_text(CONFIG.format(rows=rows, columns=columns, dataflow=dataflow))
            topology.write_text(
                TOPOLOGY + f"{name},{padded},{padded},{kernel},{kernel},{inputs},{outputs},1,\n"
            )
            layout.write_text(
                "Layer name," + ",".join(f"c{i}" for i in range(14)) + f",\n{name}," + "1," * 14 + "\n"
            )
            start = time.perf_counter()
            run = scalesim(save_disk_space=True, verbose=False, config=str(config), topology=str(topology),
                           layout=str(layout), input_type_gemm=False)  # fmt: skip
            run.run_scale(top_path=str(root / "out"))
            seconds = time.perf_counter() - start
            report = next((root / "out").rglob("COMPUTE_REPORT.csv"))
            row = [cell.strip() for cell in list(csv.reader(report.open()))[1]]
        found[name] = {"report": row, "seconds": seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
