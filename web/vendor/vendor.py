"""Fetch the libraries of the page from the npm registry: ``python web/vendor/vendor.py``. Needs npm.

The page imports these files as they are. Bare imports become relative, since an import map would be an inline script.
"""

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {
    "preact@11.2.0": {
        "package/dist/preact.mjs": "preact.js",
        "package/hooks/dist/hooks.mjs": "hooks.js",
        "package/LICENSE": "preact.LICENSE",
    },
    # For a strict Content-Security-Policy. The usual build, which the package `plotly` of PyPI also has, draws no WebGL then.
    "plotly.js-strict-dist-min@4.1.1": {
        "package/plotly-strict.min.js": "plotly.min.js",
        "package/LICENSE": "plotly.LICENSE",
    },
    "htm@3.1.1": {"package/dist/htm.mjs": "htm.js", "package/LICENSE": "htm.LICENSE"},
}


def vendor(package: str, files: dict[str, str]) -> None:
    """Write some files of a package beside this module."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", package, "--json", "--pack-destination", folder]
        packed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        with tarfile.open(Path(folder) / packed[0]["filename"]) as archive:
            for member, name in files.items():
                stream = archive.extractfile(member)
                assert stream is not None, f"{package} has no {member}"
                text = stream.read().decode()
                lines = [line for line in text.split("\n") if not line.startswith("//# sourceMappingURL")]
                text = "\n".join(lines).replace('from"preact"', 'from"./preact.js"')
                (HERE / name).write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    for package, files in PACKAGES.items():
        vendor(package, files)
