"""Build `faas-native` with zig: `python scripts/build_native.py [x86_64|aarch64] [OUT]`.

The compiler comes from PyPI (`ziglang`), so no machine needs one installed.
"""

import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "native"
FLAGS = ["-std=c11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all"]


def build(arch: str, out: Path) -> Path:
    """Compile for `arch` into `out` and return it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    target = f"{arch}-linux-musl"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS, "-o"]
    staged = out.with_suffix(".tmp")
    subprocess.run([*command, str(staged), *sources], check=True)
    staged.replace(out)
    return out


def main() -> None:
    """Build for this machine, or for the architecture named."""
    arch = sys.argv[1] if len(sys.argv) > 1 else platform.machine().replace("arm64", "aarch64")
    default = ROOT / "src" / "faas" / "_native" / f"faas-native-{arch}"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else default
    print(build(arch, out))


if __name__ == "__main__":
    main()
