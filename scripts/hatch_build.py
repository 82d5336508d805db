"""Wheel hook: compiles the native program so that `pip install .` needs no compiler."""

import platform
import sys
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_native import build, build_preload


class NativeBuildHook(BuildHookInterface):
    """Builds `faas-native` and puts it into the wheel."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Compile; an editable install uses the file in the source tree."""
        arch = platform.machine().replace("arm64", "aarch64")
        name = f"faas-native-{arch}"
        out = Path(self.root) / "src" / "faas" / "_native" / name
        if any((Path(self.root) / "native").glob("*.c")):
            build(arch, out)
            preload = out.with_name(f"faas-criu-{arch}.so")
            build_preload(arch, preload)
            if version != "editable":
                build_data["force_include"] = {
                    str(path): f"faas/_native/{path.name}" for path in (out, preload)
                }
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
