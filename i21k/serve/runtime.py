"""The program that runs a model in the browser, onnxruntime-web, copied from where npm put it.

It is 14 MB and never part of this package.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from i21k import log
from i21k.errors import UserError

TESTED = "1.30.0"
INSTALL = f"npm install onnxruntime-web@{TESTED}"
FOLDER = Path("node_modules/onnxruntime-web/dist")
# Names as npm has them, and as they are written: many web servers send .mjs with a wrong type.
FILES = {
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
LICENCE_FILE = "LICENSE.onnxruntime-web"
LICENCE = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
_VERSION = re.compile(r"ONNX Runtime Web v(\d+\.\d+\.\d+\S*)")  # in the comment of the first file


class Runtime(NamedTuple):
    """A copy of onnxruntime-web."""

    folder: Path
    version: str


def find(folder: Path | None) -> Runtime:
    """Return the runtime in a folder, with a note if the version was not tested.

    Args:
        folder: `dist` of the package, or the package itself. None: where `npm install` puts it,
            below the current directory.

    Raises:
        UserError: if it is not there.
    """
    given = FOLDER if folder is None else folder
    here = next(
        (one for one in (given, given / "dist") if (one / next(iter(FILES))).is_file()), None
    )
    missing = [name for name in FILES if here is None or not (here / name).is_file()]
    if here is None or missing:
        raise UserError(
            f"{given} has no {missing[0]} of onnxruntime-web. Run {INSTALL} and give"
            f" --onnxruntime-web {FOLDER}."
        )
    with (here / next(iter(FILES))).open("rb") as file:
        found = _VERSION.search(file.read(1000).decode("utf-8", "replace"))
    if found is None:
        raise UserError(
            f"{here / next(iter(FILES))} does not name its version. Run {INSTALL} again."
        )
    if found[1] != TESTED:
        log.note(f"onnxruntime-web is {found[1]}, and {TESTED} was tested")
    return Runtime(here, found[1])


def copy(runtime: Runtime, folder: Path) -> None:
    """Copy the files that the page needs, and the licence."""
    folder.mkdir()
    for name, written in FILES.items():
        shutil.copyfile(runtime.folder / name, folder / written)
    (folder / LICENCE_FILE).write_text(LICENCE, encoding="utf-8")
