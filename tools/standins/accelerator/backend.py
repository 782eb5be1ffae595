"""The pretended accelerators as devices of PyTorch: `register` builds accelerator.cpp once and loads it.

One process can register one such kind of device, and never take it back.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import types
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("accelerator.cpp")
BUILT = Path(__file__).resolve().parents[3] / "output" / "accelerator"
COMPILER = shutil.which("g++")
"""None where there is none, and no accelerator to pretend."""
NAME = "pretended"


def build() -> Path:
    """The library for this source and this PyTorch; it takes half a minute to compile where it is not there yet."""
    made_of = SOURCE.read_bytes() + torch.__version__.encode()
    library = BUILT / f"{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if library.exists():
        return library
    BUILT.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_suffix(f".{os.getpid()}")
    headers, libraries = Path(torch.__file__).parent / "include", Path(torch.__file__).parent / "lib"
    options = [
        "-O1",
        "-std=c++17",
        "-shared",
        "-fPIC",
        "-w",
        f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}",
    ]
    options += [f"-I{headers}", f"-I{headers / 'torch/csrc/api/include'}"]
    linked = [f"-L{libraries}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}"]
    subprocess.run([COMPILER, *options, SOURCE, *linked, "-o", unfinished], check=True)
    unfinished.replace(library)
    return library


class Memory:
    """The devices' memory, which they share, in bytes."""

    def __init__(self, library: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        for read in (self._c.accelerator_used, self._c.accelerator_peak, self._c.accelerator_capacity):
            read.restype = ctypes.c_int64
        self._c.accelerator_set_capacity.argtypes = [ctypes.c_int64]

    @property
    def used(self) -> int:
        """Held by tensors."""
        return self._c.accelerator_used()

    @property
    def peak(self) -> int:
        """Ever held by tensors at once."""
        return self._c.accelerator_peak()

    @property
    def capacity(self) -> int:
        """At which an allocation raises torch.OutOfMemoryError."""
        return self._c.accelerator_capacity()

    @capacity.setter
    def capacity(self, size: int) -> None:
        self._c.accelerator_set_capacity(size)

    @property
    def free(self) -> int:
        """Left to allocate."""
        return self.capacity - self.used


def register() -> tuple[list[torch.device], Memory]:
    """Make the devices known to PyTorch in this process."""
    library = build()
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.device_count = lambda: 2
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None  # without a generator it draws from the CPU's, which is seeded
    torch._register_device_module(NAME, module)
    torch.nn.Parameter.data = property(torch.Tensor.data.__get__, _set_data)
    return [torch.device(NAME, index) for index in range(2)], Memory(library)


def _set_data(parameter: torch.nn.Parameter, tensor: Tensor) -> None:
    """``parameter.data = tensor``, which PyTorch allows from a device to another, but not to PrivateUse1."""
    if parameter.device == tensor.device:
        torch.Tensor.data.__set__(parameter, tensor)
    else:
        torch.utils.swap_tensors(parameter, torch.nn.Parameter(tensor, requires_grad=False))
