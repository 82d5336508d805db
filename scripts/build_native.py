"""Build `faas-native` with zig: `python scripts/build_native.py [x86_64|aarch64] [OUT]`.

The compiler comes from PyPI (`ziglang`), so no machine needs one installed. The same source
gives the same bytes wherever it lies: no path, time or build id is in them.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "native"
FLAGS = [
    "-std=c11",
    "-O2",
    "-static",
    "-s",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-sanitize=all",
    "-fstack-protector-strong",
    "-Wl,--build-id=none",
]
SANITIZED_FLAGS = [
    "-std=gnu11",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]


def native_arch() -> str:
    """Name this machine's architecture as the target triples do."""
    return platform.machine().replace("arm64", "aarch64")


def sources() -> list[str]:
    """List the C files by name, so that no path of this machine gets into the program."""
    return sorted(path.name for path in SOURCES.glob("*.c"))


def compile_into(out: Path, command: list[str]) -> Path:
    """Run the compiler in the source directory; `out` is replaced only when it succeeds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    subprocess.run([*command, "-o", str(staged), *sources()], check=True, cwd=SOURCES)
    staged.replace(out)
    return out


def build(arch: str, out: Path) -> Path:
    """Compile for `arch` into `out` and return it."""
    target = f"{arch}-linux-musl"
    prefix = f"-ffile-prefix-map={SOURCES}=native"
    return compile_into(
        out, [sys.executable, "-m", "ziglang", "cc", "-target", target, prefix, *FLAGS]
    )


def build_preload(arch: str, out: Path) -> Path:
    """Compile what CRIU loads first, for `arch`, into `out`: a library that needs none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    flags = ["-O2", "-shared", "-fPIC", "-nostdlib", "-s", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fno-sanitize=all", "-fno-stack-protector", "-Wl,--build-id=none"]
    prefix = f"-ffile-prefix-map={SOURCES}=native"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl", prefix]
    parts = sorted(f"preload/{path.name}" for path in (SOURCES / "preload").glob("*.c"))
    command = [*compiler, *flags, "-o", str(staged), *parts]
    subprocess.run(command, check=True, cwd=SOURCES)
    staged.replace(out)
    return out


def build_sanitized(out: Path) -> Path:
    """Compile for this machine with its own gcc, AddressSanitizer and UBSan, for the tests."""
    newest = max(path.stat().st_mtime_ns for path in SOURCES.glob("*.[ch]"))
    if out.is_file() and out.stat().st_mtime_ns > newest:
        return out
    return compile_into(out, ["gcc", *SANITIZED_FLAGS])


def main() -> None:
    """Build for this machine, or for the architecture named."""
    arch, out, *_ = [*sys.argv[1:], None, None]
    arch = arch or native_arch()
    default = ROOT / "src" / "faas" / "_native" / f"faas-native-{arch}"
    made = build(arch, Path(out).resolve() if out else default)
    build_preload(arch, made.with_name(made.name.replace("native", "criu") + ".so"))
    print(made)


if __name__ == "__main__":
    main()
