"""What ships with the package: tasks, gin files and the small backbone.

They stand at the root of the repository, where they are read and edited, and are installed within
the package, so that an installation puts one name beside those of other packages. `tasks` is
imported under that name either way.
"""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_shipped"

ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
"""Holds `tasks/`, `gin_configs/` and `backbones/`."""

BACKBONE = ROOT / "backbones" / "mini"
"""The small T5 that the demo runs on."""

NAMES = ROOT / "tasks" / "names.txt"
"""The names of all tasks and mixtures that ship, as `spot tasks` prints them."""

TASKS = ("tasks.bundled_tasks",)
"""Modules that register the tasks whose names always exist."""

PAPERS_TASKS = ("tasks.papers_tasks",)
"""Modules that register hundreds of tasks, and are imported for a name that no other has."""


def make_importable() -> None:
    """Let `import tasks` reach the tasks that ship, after all that is importable already."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
