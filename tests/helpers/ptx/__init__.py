"""An interpreter for the PTX text of kernels: the program that is shipped, executed with checked memory.

kernel = Kernel(text)
memory = Memory([(array.ctypes.data, array.nbytes)])
kernel.run(4, [array.ctypes.data, array.size], memory)
"""

from helpers.ptx.lanes import Divergence
from helpers.ptx.machine import Kernel
from helpers.ptx.memory import IllegalAddress, Memory, Misaligned, Region, aligned_copy

__all__ = ["Divergence", "IllegalAddress", "Kernel", "Memory", "Misaligned", "Region", "aligned_copy"]
