"""The part of the NVIDIA driver's library that is used: function signatures, constants, and advice on errors.

Source: NVIDIA, "CUDA Driver API", cuda.h of CUDA 12.
"""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, Final

MULTIPROCESSORS: Final = 16
"""Device attribute: multiprocessors of a device."""
CAPABILITY_MAJOR: Final = 75
"""Device attribute: major number of the compute capability."""
CAPABILITY_MINOR: Final = 76
"""Device attribute: minor number of the compute capability."""
BUFFER_POINTER: Final = 1
"""In cuLaunchKernel's `extra`: the address of one buffer with all arguments follows."""
BUFFER_SIZE: Final = 2
"""In cuLaunchKernel's `extra`: the address of the buffer's size follows."""
NON_BLOCKING: Final = 1
"""Flag of cuStreamCreate: the stream does not wait for the default stream."""

_HANDLE: Final = POINTER(c_void_p)
SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_HANDLE, c_int),
    "cuCtxGetCurrent": (_HANDLE,),
    "cuCtxGetDevice": (POINTER(c_int),),
    "cuCtxGetId": (c_void_p, POINTER(c_uint64)),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (_HANDLE,),
    "cuModuleLoadData": (_HANDLE, c_char_p),
    "cuModuleGetFunction": (_HANDLE, c_void_p, c_char_p),
    "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p),
    "cuStreamCreate": (_HANDLE, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuMemAlloc_v2": (_HANDLE, c_size_t),
    "cuMemFree_v2": (c_void_p,),
    "cuMemHostAlloc": (_HANDLE, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyDtoDAsync_v2": (c_void_p, c_void_p, c_size_t, c_void_p),
    "cuMemcpyHtoDAsync_v2": (c_void_p, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_void_p, c_size_t, c_void_p),
    "cuEventCreate": (_HANDLE, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
}
"""Argument types of each function, by its name in the library; every function returns a CUresult, 0 for success."""

REMEDIES: Final = {
    "CUDA_ERROR_OUT_OF_MEMORY": "draw fewer rows at once, or free memory of the GPU",
    "CUDA_ERROR_INVALID_PTX": "update the NVIDIA driver",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "update the NVIDIA driver",
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND": "install the whole NVIDIA driver, its PTX compiler library included",
    "CUDA_ERROR_INVALID_IMAGE": "update the NVIDIA driver",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "update the NVIDIA driver",
    "CUDA_ERROR_INVALID_CONTEXT": "pass pointers and the stream of one device, and keep its context alive",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "check the device pointers and sizes that were passed; restart this process",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "pass device pointers aligned as documented; restart this process",
}
"""Advice for results that a user can do something about, by the driver's name of the result."""
