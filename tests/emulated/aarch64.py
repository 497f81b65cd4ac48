"""A Python for aarch64 with onnxruntime, in a folder, run by QEMU's user-mode emulation.

Debian's packages are unpacked, not installed, so that nothing of the system changes and no rights
are needed beyond those of debootstrap.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "build" / "aarch64"
EMULATOR = "qemu-aarch64-static"
NEEDED = (EMULATOR, "debootstrap", "dpkg-deb")
ONNXRUNTIME = "1.23.2"
"""1.32.0 reads the host's processor under this emulation and crashes (QEMU 7.2)."""
_SUITE, _PYTHON, _MIRROR = "bookworm", "3.11", "http://deb.debian.org/debian"
_PLATFORMS = ("manylinux_2_27_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64")


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in NEEDED if shutil.which(name) is None]


def prepare() -> None:
    """Fetch Python and onnxruntime, once."""
    if (FOLDER / "done").exists():
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    root, wheels, site = FOLDER / "root", FOLDER / "wheels", FOLDER / "site"
    options = ["--arch=arm64", "--variant=minbase", "--foreign", "--include=python3"]
    _run("debootstrap", *options, _SUITE, str(root), _MIRROR)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        _run("dpkg-deb", "-x", str(package), str(root))
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", _PYTHON]
    options += [word for name in _PLATFORMS for word in ("--platform", name)]
    packages = [f"onnxruntime=={ONNXRUNTIME}", "numpy"]
    _run(sys.executable, "-m", "pip", "download", *options, *packages, "-d", str(wheels))
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    (FOLDER / "done").touch()


def python(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the emulated Python."""
    program = FOLDER / "root" / "usr" / "bin" / f"python{_PYTHON}"
    command = [EMULATOR, "-L", str(FOLDER / "root"), str(program), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER / "site"), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}")
