"""Collect what `benchmarks/gpu_day.py` needs on a machine with a GPU that cannot download.

    python benchmarks/gpu_wheels.py --out gpu_bundle --list  # names only
    python benchmarks/gpu_wheels.py --out gpu_bundle [--have have.txt] [--photos FOLDER]

Run it beforehand, where there is a network. It downloads the wheels of the packages that the other
machine lacks, for Python 3.12 on Linux x86-64, in the versions that are installed here. It also
packs images: those of the quick start, and others of 256 px for the loader. `--have` names the
packages of the other machine, as `python -m pip list --format=freeze` writes them there. By default
that is `HAVE`: what JAX, Flax, Optax, Orbax and PyTorch bring. Fails above 60 MiB.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PYTHON = "3.12"
# pip takes a wheel only if its platform is named exactly.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]
LIMIT_BYTES, IMAGES_BYTES = 60 * 2**20, 30 * 10**6
QUICKSTART_PER_CLASS = 200  # as in configs/quickstart.py
SHORT_SIDE_PX, DRAWN_PX = 256, 320
HAVE = """
absl-py aiofiles attrs certifi charset-normalizer chex cloudpickle einops etils flax fsspec h5py
humanize idna jax jaxlib jaxtyping markdown-it-py matplotlib mdurl ml-dtypes msgpack numpy
opencv-python-headless opt-einsum optax orbax-checkpoint packaging pillow protobuf psutil pyarrow
pygments pyyaml requests rich scipy simplejson six tensorstore toolz torch tqdm treescope
typing-extensions urllib3 wadler-lindig wrapt zipp
"""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cli.add_argument("--out", type=Path, default=ROOT / "gpu_bundle")
    cli.add_argument("--have", type=Path, help="packages of the other machine, NAME==VERSION lines")
    cli.add_argument(
        "--photos", type=Path, help="class folders of JPEGs to pack instead of drawing"
    )
    cli.add_argument(
        "--list", action="store_true", help="list the wheels and download nothing else"
    )
    args = cli.parse_args()
    have: set[str] = set(
        map(canonicalize_name, read_names(args.have) if args.have else HAVE.split())
    )
    with tempfile.TemporaryDirectory() as directory:
        wheels = download(roots(), have, Path(directory))
        for wheel in wheels:
            print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
        if args.list:
            return
        target = args.out / "wheels"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for wheel in wheels:
            shutil.move(wheel, target)
    pack_images(args.out / "data", args.photos)
    total = num_bytes(args.out)
    print(f"{total / 2**20:6.2f} MiB  {args.out}")
    if total > LIMIT_BYTES:
        sys.exit(f"{args.out} is larger than {LIMIT_BYTES / 2**20:.0f} MiB. Use --have.")


def read_names(file: Path) -> list[str]:
    """Return the names in a file of NAME==VERSION lines, or of names."""
    lines = (line.strip() for line in file.read_text().splitlines())
    return [line.split("==")[0].split(" @ ")[0].strip() for line in lines if line]


def roots() -> list[Requirement]:
    """Return what the project depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


def download(wanted: list[Requirement], have: set[str], directory: Path) -> list[Path]:
    """Download wheels of `wanted` and of all that they need, except what the machine has."""
    found: dict[str, Path] = {}
    queue = list(wanted)
    while queue:
        requirement = queue.pop(0)
        name = canonicalize_name(requirement.name)
        if name in have or name in found:
            continue
        found[name] = wheel_of(requirement, directory)
        queue += needs_of(found[name], requirement.extras)
    return sorted(found.values())


def wheel_of(requirement: Requirement, directory: Path) -> Path:
    """Download the wheel of the version that is installed here, or else of one that fits."""
    try:
        wanted = f"{requirement.name}=={metadata.version(requirement.name)}"
    except metadata.PackageNotFoundError:
        wanted = f"{requirement.name}{requirement.specifier}"
    before = set(directory.iterdir())
    pip = [sys.executable, "-m", "pip", "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    options += ["--python-version", PYTHON, *(f"--platform={name}" for name in PLATFORMS)]
    command = [*pip, "download", *options, "--dest", str(directory), wanted]
    if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        # A package without wheels can still be one of pure Python.
        subprocess.run([*pip, "wheel", "--no-deps", "-w", str(directory), wanted], check=True)
    (wheel,) = set(directory.iterdir()) - before
    if not wheel.name.endswith(("-any.whl", "x86_64.whl")):
        sys.exit(f"{wheel.name} is no wheel for Python {PYTHON}. Build one on such a machine.")
    return wheel


def needs_of(wheel: Path, extras: set[str]) -> Iterator[Requirement]:
    """Yield what a wheel needs on the other machine."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    there = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    there |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**there, "extra": e}) for e in ("", *extras)):
            yield requirement


def pack_images(directory: Path, photos: Path | None) -> None:
    """Pack the quick start, and images of 256 px up to `IMAGES_BYTES` together."""
    from i21k.data import synthetic
    from i21k.data.pack.options import PackOptions
    from i21k.data.pack.pack import pack

    synthetic.pack_if_missing(directory / "quickstart", QUICKSTART_PER_CLASS, 0)
    left = IMAGES_BYTES - num_bytes(directory / "quickstart")
    shutil.rmtree(directory / "images", ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        if photos:
            choose(photos, source, left)
        else:
            synthetic.write_source(source, 1, size_px=DRAWN_PX)
            per_class = left // num_bytes(source)
            synthetic.write_source(source, per_class, size_px=DRAWN_PX)
        options = PackOptions(name="images", short_side=SHORT_SIDE_PX)
        pack(source, directory / "images", options)


def choose(photos: Path, target: Path, limit: int) -> None:
    """Copy JPEGs from all class folders, evenly, until they have `limit` bytes."""
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    step = max(1, round(sum(file.stat().st_size for file in files) / max(limit, 1)))
    for file in files[::step]:
        if (limit := limit - file.stat().st_size) < 0:
            break
        copied = target / file.relative_to(photos)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copied)


def num_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
