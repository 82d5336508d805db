"""Write `src/faas/embedded/syscall_numbers.py` from the kernel headers that ship with zig.

`python scripts/gen_syscalls.py`; the result is committed, so nobody needs this to build.
"""

import re
import textwrap
from pathlib import Path

import ziglang

ROOT = Path(__file__).resolve().parent.parent
HEADERS = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
FILES = {
    "x86_64": HEADERS / "x86-linux-any" / "asm" / "unistd_64.h",
    "aarch64": HEADERS / "aarch64-linux-any" / "asm" / "unistd_64.h",
}
HEAD = '''"""Numbers of the system calls by architecture: `name=number`, from the kernel's headers.

Written by scripts/gen_syscalls.py; do not edit.
"""


def _table(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (item.split("=") for item in text.split())}


NUMBERS = {
'''


def numbers(header: Path) -> dict[str, int]:
    """Read the plain defines."""
    found = re.findall(r"#define __NR_(\w+)\s+(\d+)\s*$", header.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


def main() -> None:
    """Write the module."""
    out = [HEAD]
    for machine, header in FILES.items():
        items = " ".join(f"{name}={number}" for name, number in numbers(header).items())
        body = textwrap.indent(textwrap.fill(items, 92), "        ")
        out.append(f'    "{machine}": _table(\n        """\n{body}\n        """\n    ),\n')
    out.append("}\n")
    (ROOT / "src" / "faas" / "embedded" / "syscall_numbers.py").write_text("".join(out))


if __name__ == "__main__":
    main()
