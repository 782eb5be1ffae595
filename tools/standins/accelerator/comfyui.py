"""ComfyUI in this process with the pretended accelerator as its GPU.

The host asks PyTorch's CUDA for a device and its memory, so its answers are replaced here; what it does with a device
(what lies where, what is loaded, moved and unloaded) is its own code.
"""

from types import SimpleNamespace

import torch

from tools.host import use_comfyui

from . import backend

FP32 = ("--force-fp32", "--fp32-text-enc")
"""Flags by which all is computed in float32, as on the CPU."""


def start(*flags: str, both: bool = False) -> backend.Memory | None:
    """Make ComfyUI importable, as it is on a GPU with these flags of its command line; returns the GPU's memory.

    The GPU is one that computes in float16 and bfloat16, and the host uses both unless it is told otherwise. With
    ``--cpu`` there is none.

    Args:
        both: have two such GPUs.
    """
    torch.set_num_threads(1)
    if "--cpu" in flags:
        use_comfyui(cpu=True, flags=flags)
        return None
    devices, memory = backend.register()
    device = devices[0]
    use_comfyui(cpu=True, flags=flags)
    import comfy.model_management as host
    from comfy.cli_args import args

    args.cpu = False
    host.cpu_state = host.CPUState.GPU
    host.vram_state = host.VRAMState.HIGH_VRAM if args.gpu_only else host.set_vram_to
    host.is_nvidia = lambda: False  # by which it asks for what a card can do
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(major=8)
    host.get_torch_device = lambda: device
    host.get_all_torch_devices = lambda exclude_current=False: devices[exclude_current : 1 + both]

    free_memory, total_memory = host.get_free_memory, host.get_total_memory

    def get_free_memory(dev=None, torch_free_too=False):
        if (dev or device).type != device.type:
            return free_memory(dev, torch_free_too)
        return (memory.free, memory.free) if torch_free_too else memory.free

    def get_total_memory(dev=None, torch_total_too=False):
        if (dev or device).type != device.type:
            return total_memory(dev, torch_total_too)
        return (memory.capacity, memory.capacity) if torch_total_too else memory.capacity

    host.get_free_memory, host.get_total_memory = get_free_memory, get_total_memory
    memory.capacity = 8 << 30
    if "--enable-dynamic-vram" in flags:
        _load_weights_as_they_are_needed()
    return memory


class _NoResidentWeights:
    """For comfy_aimdo's reservation of a GPU's memory: it has no place, so weights are copied for every use."""

    def __init__(self, size: int, device: int) -> None:
        pass

    def prioritize(self) -> None:
        pass

    def alloc(self, size: int) -> None:
        pass

    def loaded_size(self) -> int:
        return 0

    def free_memory(self, size: int) -> int:
        return 0


class _NoPinnedMemory:
    """For comfy_aimdo's memory of the CPU that a GPU reads."""

    size = 0

    def __init__(self, *sizes: int) -> None:
        pass

    def truncate(self, size: int, **_) -> None:
        pass


def _load_weights_as_they_are_needed() -> None:
    """Dynamic VRAM over a library that drives CUDA, and whose answers are replaced by "no memory to be had"."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy.pinned_memory
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar

    comfy_aimdo.model_vbar.ModelVBAR = _NoResidentWeights
    comfy_aimdo.model_vbar.vbar_fault = lambda weights: None
    comfy_aimdo.model_vbar.vbar_unpin = lambda weights: None
    comfy_aimdo.model_vbar.vbar_signature_compare = lambda signature, other: False
    comfy_aimdo.host_buffer.HostBuffer = _NoPinnedMemory
    comfy.pinned_memory.pin_memory = lambda *module, **options: None
    comfy.pinned_memory.get_pin = lambda *module, **options: None
    comfy.model_management.pinned_hostbuf_size = lambda size: size
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
