"""Wheel hook: compiles the native program so that `pip install .` needs no compiler."""

import platform
import sys
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_native import build


class NativeBuildHook(BuildHookInterface):
    """Builds `faas-native` and puts it into the wheel."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Compile; an editable install uses the file in the source tree."""
        arch = platform.machine().replace("arm64", "aarch64")
        name = f"faas-native-{arch}"
        out = Path(self.root) / "src" / "faas" / "_native" / name
        if any((Path(self.root) / "native").glob("*.c")):
            build(arch, out)
            if version != "editable":
                build_data["force_include"] = {str(out): f"faas/_native/{name}"}
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
