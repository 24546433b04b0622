"""The register tile in the assembly of other processors: all of its multiply-adds, and nothing left on the stack.

In a process of its own, the sum of products at the heart of every layer is compiled by Numba for the registers of a
processor, and translated by LLVM for it, which need not be this machine's.
"""

import os
import re
import subprocess
import sys

import pytest

from conftest import CHECKED, INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED or CHECKED, reason="the assembly is that of ordinary compiled code")

PROGRAM = """
import sys
import llvmlite.binding as llvm
import numba
from numba import float32, float64, int64

triple, cpu, features, dtype = sys.argv[1:]
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
numba.njit("int64()")(lambda: 0)  # Numba asks for the processor too, at its first function: it gets this one
here, llvm.get_process_triple = llvm.get_process_triple, lambda: triple
from fastmlp.kernels import simd  # which asks for the processor when it is imported
llvm.get_process_triple = here
from fastmlp.kernels.simd import ROWS, block, rank1, store_tile, zeros


@numba.njit(error_model="numpy", _nrt=False)  # counting references needs an x86 instruction
def product(A, B, terms, C):
    tile = zeros(C, ROWS)
    for t in range(terms):
        tile = rank1(tile, A, t, terms, B, t * block(B))
    store_tile(tile, C, 0, block(C))


array = {"float32": float32, "float64": float64}[dtype][::1]
product.compile((array, array, int64, array))
code = next(iter(product.inspect_llvm().values()))
module = llvm.parse_assembly(code)
machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
module.triple, module.data_layout = triple, str(machine.target_data)
print(ROWS, simd.VECTORS, simd.VECTOR_BYTES)
print(machine.emit_assembly(module))
"""

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
# name: triple, processor, features, bytes of a register, rows and vectors of the tile, what a multiply-add looks like
PROCESSORS = {
    "SSE2": (X86, "x86-64", "", 16, (6, 2), {"single": r"mulp[sd]\s", "other": r"addp[sd]\s"}),
    "AVX2": (X86, "x86-64-v3", "+avx,+avx2,+fma", 32, (6, 2), {"single": r"vfn?madd\d+p[sd]\s"}),
    "AVX-512": (X86, "x86-64-v4", "+avx,+avx2,+fma,+avx512f", 64, (16, 1), {"single": r"vfn?madd\d+p[sd]\s"}),
    "NEON": (ARM, "generic", "", 16, (8, 2), {"single": r"fmla\s"}),
}
STACK = re.compile(r"\(%r[sb]p[,)]|\[(sp|x29)\b")


def inner_loop(assembly, instruction):
    """Return the block of instructions, from a label to the jump back to it, with the most of an instruction."""
    blocks = re.split(r"^(\.?L\w+):", assembly, flags=re.MULTILINE)
    loops = []
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        found = re.search(rf"^\s+(j\w+|b\.\w+|cbn?z\s+\w+,|tbn?z\s.*,)\s+{re.escape(label)}\b", body, re.MULTILINE)
        if found:
            loops.append(body[: found.end()])
    return max(loops, key=lambda body: len(re.findall(instruction, body)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_inner_loop_is_all_of_the_tile_and_stays_in_registers(name, dtype):
    triple, processor, features, vector_bytes, (rows, vectors), instructions = PROCESSORS[name]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, triple, processor, features, dtype],
        check=False, capture_output=True, text=True,
        env={**os.environ, "NUMBA_CPU_NAME": "x86-64" if triple == X86 else "generic", "NUMBA_CPU_FEATURES": features},
    )  # fmt: skip
    if "No available targets" in done.stderr or "Unable to find target" in done.stderr:
        pytest.skip(f"this llvmlite cannot translate for {triple}")
    assert done.returncode == 0, done.stderr
    first, assembly = done.stdout.split("\n", 1)
    assert first == f"{rows} {vectors} {vector_bytes}"
    loop = inner_loop(assembly, instructions["single"])
    for what in instructions.values():
        count = len(re.findall(what, loop))
        assert count > 0
        assert count % (vectors * rows) == 0, loop  # LLVM may take several turns of the loop at once
    assert not STACK.search(loop), loop
