"""A build backend of one function, so that a distribution can be built and installed where nothing can be downloaded.

It puts the modules of the folder into a wheel, with the name, version and entry points of pyproject.toml. It is copied into
the project that it builds, and so stands alone.
"""

import tomllib
import zipfile
from pathlib import Path


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Write the wheel of the project in the current folder; its file name (PEP 517)."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    groups = project["entry-points"].items()
    files = {path.name: path.read_text() for path in Path().glob("*.py") if path.name != Path(__file__).name}
    files |= {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/entry_points.txt": "\n".join(
            line for group, points in groups for line in (f"[{group}]", *(f"{name} = {at}" for name, at in points.items()))
        ),
    }
    record = f"{stem}.dist-info/RECORD"
    files[record] = "".join(f"{name},,\n" for name in (*files, record))
    name = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
