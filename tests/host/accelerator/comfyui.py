"""ComfyUI in this process with the pretended accelerator as its GPU.

The host asks PyTorch's CUDA for a device and its memory, so its answers are replaced here; what it does with a device
(what lies where, what is loaded, moved and unloaded) is its own code.
"""

import torch

from tools.host import use_comfyui

from . import backend


def start(gpu_only: bool = False, dynamic_vram: bool = False, both: bool = False) -> backend.Memory:
    """Make ComfyUI importable, as it is on a GPU that computes in float32; returns the GPU's memory.

    Args:
        gpu_only: the host's ``--gpu-only``, by which everything between nodes stays on the GPU.
        dynamic_vram: load weights as they are needed, as the host does on NVIDIA unless told otherwise.
        both: have two such GPUs.
    """
    devices, memory = backend.register()
    device = devices[0]
    start_on_cpu()
    from comfy.cli_args import args

    args.gpu_only = gpu_only
    import comfy.model_management as host

    args.cpu = False
    host.cpu_state = host.CPUState.GPU
    host.vram_state = host.VRAMState.HIGH_VRAM if gpu_only else host.VRAMState.NORMAL_VRAM
    host.is_nvidia = lambda: False  # by which it asks for what a card can do
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
    if dynamic_vram:
        _load_weights_as_they_are_needed()
    return memory


def start_on_cpu() -> None:
    """Make ComfyUI importable, on the CPU in float32."""
    torch.set_num_threads(1)
    use_comfyui(cpu=True)
    from comfy.cli_args import args

    args.force_fp32 = args.fp32_text_enc = True


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
