"""Make the inferlite-gpu wheel from the native one: the same files, depending on onnxruntime-gpu.

A distribution has one set of dependencies, and onnxruntime and onnxruntime-gpu install into one folder: whoever has a
GPU needs a distribution that does not ask for the other. Nothing is compiled again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import zipfile
from pathlib import Path

NAME = "inferlite-gpu"
RENAMED = {
    r"^Name: inferlite$": f"Name: {NAME}",
    r"^Requires-Dist: onnxruntime(?=\W)": "Requires-Dist: onnxruntime-gpu",
}


def rewrite_metadata(metadata: str) -> str:
    """Change the name and the one dependency; each must stand there exactly once.

    Raises:
        ValueError: `metadata` is not that of the native wheel.
    """
    head, blank, description = metadata.partition("\n\n")
    for pattern, replacement in RENAMED.items():
        head, changes = re.subn(pattern, replacement, head, flags=re.MULTILINE)
        if changes != 1:
            message = f"the metadata holds `{pattern}` {changes} times, wanted once"
            raise ValueError(message)
    return head + blank + description


def record_line(name: str, content: bytes) -> str:
    """Return the line of RECORD for one file, as the wheel format defines it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


def repack(source: Path, out: Path) -> Path:
    """Write the inferlite-gpu twin of the wheel `source` into the folder `out` and return its path."""
    distribution, version, tags = source.stem.split("-", 2)
    old, new = f"{distribution}-{version}.dist-info/", f"{NAME.replace('-', '_')}-{version}.dist-info/"
    target = out / f"{NAME.replace('-', '_')}-{version}-{tags}.whl"
    record: list[str] = []
    with zipfile.ZipFile(source) as wheel, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as twin:
        for entry in wheel.infolist():
            if entry.is_dir() or entry.filename == f"{old}RECORD":
                continue
            content = wheel.read(entry)
            if entry.filename == f"{old}METADATA":
                content = rewrite_metadata(content.decode()).encode()
            if entry.filename.startswith(old):
                entry.filename = new + entry.filename.removeprefix(old)
            twin.writestr(entry, content)
            record.append(record_line(entry.filename, content))
        record.append(f"{new}RECORD,,")
        twin.writestr(f"{new}RECORD", "\n".join(record) + "\n")
    return target


def main() -> None:
    """Repack the wheel named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path, help="the native wheel of inferlite")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new wheel")
    arguments = parser.parse_args()
    print(repack(arguments.wheel, arguments.out))


if __name__ == "__main__":
    main()
