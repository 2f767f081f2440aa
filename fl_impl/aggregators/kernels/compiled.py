"""Machine code in memory: from the text of a kernel to a function that ctypes calls without the interpreter's lock."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import binding


@dataclass(frozen=True)
class Host:
    """What the generator needs to know of the processor."""

    name: str
    features: str
    vector_bytes: int
    """Width of a vector register."""
    many_registers: bool
    """32 vector registers rather than 16."""
    halves: bool = False
    """Whether it widens float16 by itself."""


@cache
def host() -> Host:
    """The processor that this process runs on."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    found: Any = binding.get_host_cpu_features()
    wide = bool(found.get("avx512f") and found.get("avx512vl"))
    size = 64 if wide else 32 if found.get("avx") else 16
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return Host(binding.get_host_cpu_name(), found.flatten(), size, wide or arm, bool(found.get("f16c")) or arm)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A function in memory. It lives as long as its engine, which takes the target machine over: one each."""

    call: Callable[..., None]
    engine: Any


def compile_kernel(text: str, arguments: str) -> Compiled:
    """Compile the function `kernel` of a module of LLVM IR; `arguments` as `emit.Writer` takes them."""
    processor = host()
    module: Any = binding.parse_assembly(text)
    module.verify()
    target: Any = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=processor.name, features=processor.features, opt=2)
    engine: Any = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    types = [ctypes.c_void_p if letter == "p" else ctypes.c_int64 for letter in arguments]
    return Compiled(ctypes.CFUNCTYPE(None, *types)(engine.get_function_address("kernel")), engine)
