"""The devices that Vulkan offers on this machine, by name and kind, asked without any package."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final, Literal

LOADER: Final = "libvulkan.so.1"
"""Vulkan's loader on Linux; it comes with the system, not with a driver."""
Kind = Literal["other", "integrated GPU", "discrete GPU", "virtual GPU", "CPU"]
KINDS: Final[tuple[Kind, ...]] = ("other", "integrated GPU", "discrete GPU", "virtual GPU", "CPU")
"""Vulkan's kinds of a device, by its numbers for them."""
_NAME_AT, _NAME_BYTES, _PROPERTIES_BYTES = 20, 256, 1024
"""Where VkPhysicalDeviceProperties has the name, and a size that is enough for the structure (824 bytes)."""
_MOST = 64


@dataclass(frozen=True)
class VulkanDevice:
    """A device that some Vulkan driver offers."""

    name: str
    kind: Kind


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("sType", ctypes.c_int32),
        ("pNext", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("pApplicationInfo", ctypes.c_void_p),
        ("enabledLayerCount", ctypes.c_uint32),
        ("ppEnabledLayerNames", ctypes.c_void_p),
        ("enabledExtensionCount", ctypes.c_uint32),
        ("ppEnabledExtensionNames", ctypes.c_void_p),
    )


def vulkan_devices(loader: str = LOADER) -> list[VulkanDevice]:
    """List the devices; none where no driver is installed.

    Raises OSError when the loader is missing.
    """
    library = ctypes.CDLL(loader)
    instance = ctypes.c_void_p()
    info = _InstanceCreateInfo(sType=1)
    if library.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)):
        return []  # most of all VK_ERROR_INCOMPATIBLE_DRIVER: there is none
    try:
        count = ctypes.c_uint32(_MOST)
        handles = (ctypes.c_void_p * _MOST)()
        if library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles) < 0:
            return []
        return [_described(library, handle) for handle in handles[: count.value] if handle]
    finally:
        library.vkDestroyInstance(instance, None)


def _described(library: Any, handle: int) -> VulkanDevice:
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    library.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
    number = ctypes.c_uint32.from_buffer(properties, _NAME_AT - 4).value
    name = properties.raw[_NAME_AT : _NAME_AT + _NAME_BYTES].partition(b"\0")[0].decode(errors="replace")
    return VulkanDevice(name, KINDS[number] if number < len(KINDS) else "other")
