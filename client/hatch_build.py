"""Build hook of both distributions, `latentry` and `latentry-client`: it generates the synchronous client."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateSynchronous(BuildHookInterface[Any]):
    """Generate `latentry.synchronous` before any build, also before an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files and add them to the distribution, from which git's list of ignored files would leave them out."""
        generator = runpy.run_path(str(Path(__file__).with_name("generate_synchronous.py")))
        generator["write"]()
        build_data["artifacts"].append(generator["TARGET"].relative_to(self.root).as_posix() + "/*.py")
