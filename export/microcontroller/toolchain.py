"""Compilers of this machine and of microcontrollers, and an emulator of the latter's processors.

outputs = on_host(folder, images)                    # None where there is no C compiler
build(folder, PROCESSORS["cortex-m4"])               # flash and RAM; None without a compiler
emulate(folder, PROCESSORS["cortex-m4"], images)     # outputs, and instructions an image
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .writer import SOURCES, source

ARM = "arm-none-eabi-"
EMULATOR = "qemu-system-arm"
TO_INSTALL = "on Debian and Ubuntu: apt install"
"""What a sentence about a missing program continues with."""
_C99 = ("-std=c99", "-O3")
_OBJECTS = ("network.o", "kernels.o")
_SHIFT = 5  # an instruction takes 2^5 ns of the emulated clock, as `check.c` knows
_EMULATED_BYTES = 4_000_000  # of flash and of RAM, in `link.ld`
_SECONDS = 300


@dataclass(frozen=True)
class Processor:
    """A microcontroller's processor.

    Attributes:
        flags: of the compiler.
        machine: QEMU's board to emulate it with. A Cortex-M3 runs a Cortex-M0+'s programs.
    """

    name: str
    flags: tuple[str, ...]
    machine: str


def _processor(name: str, machine: str, *more: str) -> Processor:
    return Processor(name, (f"-mcpu={name}", "-mthumb", *more), machine)


PROCESSORS = {
    one.name: one
    for one in (
        _processor("cortex-m0plus", "mps2-an385"),
        _processor("cortex-m4", "mps2-an386", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        _processor("cortex-m7", "mps2-an500", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    )
}
"""What programs can be compiled and emulated for, by name."""


@dataclass(frozen=True)
class Size:
    """What the network alone takes on a board; the program around it is the user's.

    Attributes:
        flash_bytes: its code, weights and tables.
        ram_bytes: its array of activations and its stack.
        stack_bytes: at most, of its functions together.
    """

    flash_bytes: int
    ram_bytes: int
    stack_bytes: int


@dataclass(frozen=True)
class Emulated:
    """What a program gave on an emulated processor.

    Attributes:
        outputs: as the network writes them, (images, classes).
        instructions: executed for one image, at most.
    """

    outputs: NDArray[np.generic]
    instructions: int


def host_compiler() -> str | None:
    """A C compiler for this machine: that of the variable CC, or a usual one."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def on_host(
    folder: Path, images: NDArray[np.uint8], number: type[np.generic]
) -> NDArray[np.generic] | None:
    """What a project's network gives for images (n, height, width, channels) on this machine.

    Returns:
        outputs (n, classes); None where there is no compiler.
    """
    compiler = host_compiler()
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="gemkit-") as temporary:
        here = Path(temporary)
        (here / "check.c").write_text(source("check.c"), encoding="utf-8")
        include = f"-I{folder.resolve()}"
        _run([compiler, *_C99, include, "-o", "check", "check.c", *_sources(folder), "-lm"], here)
        return _outputs(["./check"], here, images, number)


def build(folder: Path, processor: Processor) -> Size | None:
    """Compile a project's network for a processor; None where there is no compiler for it."""
    with tempfile.TemporaryDirectory(prefix="gemkit-") as temporary:
        return None if not _compiled(folder, processor, Path(temporary)) else _size(Path(temporary))


def emulate(
    folder: Path, processor: Processor, images: NDArray[np.uint8], number: type[np.generic]
) -> Emulated | None:
    """Run a project's network on an emulated processor.

    Returns:
        None where there is no emulator or compiler, or the network is larger than its memory.
    """
    if shutil.which(EMULATOR) is None:
        return None
    board = SOURCES / "emulated"
    with tempfile.TemporaryDirectory(prefix="gemkit-") as temporary:
        here = Path(temporary)
        if not _compiled(folder, processor, here):
            return None
        size = _size(here)
        if max(size.flash_bytes, size.ram_bytes) > 0.9 * _EMULATED_BYTES:
            return None
        (here / "check.c").write_text(source("check.c"), encoding="utf-8")
        options = ["-DEMULATED", f"-I{folder.resolve()}", "--specs=rdimon.specs", "-nostartfiles"]
        linked = ["check.c", *_OBJECTS, str(board / "startup.c"), "-T", str(board / "link.ld")]
        compiler = f"{ARM}gcc"
        _run([compiler, *_C99, *processor.flags, *options, *linked, "-o", "check.elf", "-lm"], here)
        command = [EMULATOR, "-machine", processor.machine, "-nographic", "-monitor", "none"]
        command += ["-serial", "none", "-semihosting-config", "enable=on,target=native"]
        command += ["-icount", f"shift={_SHIFT}", "-kernel", "check.elf"]
        outputs = _outputs(command, here, images, number)
        return Emulated(outputs, int((here / "instructions.txt").read_text()))


def _compiled(folder: Path, processor: Processor, here: Path) -> bool:
    if shutil.which(f"{ARM}gcc") is None:
        return False
    options = [*_C99, *processor.flags, "-fstack-usage", "-c"]
    _run([f"{ARM}gcc", *options, *_sources(folder)], here)
    return True


def _sources(folder: Path) -> list[str]:
    return [str((folder / name).resolve().with_suffix(".c")) for name in _OBJECTS]


def _size(here: Path) -> Size:
    rows = _run([f"{ARM}size", *_OBJECTS], here).splitlines()[1:]
    text, data, bss = (sum(int(row.split()[part]) for row in rows) for part in range(3))
    functions = [(here / name).with_suffix(".su").read_text() for name in _OBJECTS]
    stack = sum(int(row.split("\t")[1]) for row in "".join(functions).splitlines())
    return Size(text + data, data + bss + stack, stack)


def _outputs(
    command: Sequence[str], here: Path, images: NDArray[np.uint8], number: type[np.generic]
) -> NDArray[np.generic]:
    (here / "images.bin").write_bytes(np.ascontiguousarray(images).tobytes())
    _run(command, here)
    found = np.fromfile(here / "outputs.bin", number)
    return found.reshape(len(images), -1)


def _run(command: Sequence[str], here: Path) -> str:
    done = subprocess.run(
        command, cwd=here, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stderr[-2000:]}")
    return done.stdout
