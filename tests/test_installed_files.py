"""What is installed: every file that ships, and not only those that a checkout happens to have."""

from pathlib import Path

from setuptools.dist import Distribution

ROOT = Path(__file__).parents[1]
SHIPPED = ("spot_jax", "tasks", "gin_configs", "backbones")


def test_every_file_that_ships_is_installed(monkeypatch):
    monkeypatch.chdir(ROOT)
    said: dict = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: said.update(arguments))
    exec((ROOT / "setup.py").read_text(), {})
    command = Distribution({**said, "script_name": "setup.py"}).get_command_obj("build_py")
    command.ensure_finalized()
    installed = {Path(path) for _, _, path in command.find_all_modules()}
    for _, directory, _, names in command.data_files:
        installed |= {Path(directory, name) for name in names}
    shipped = {path for name in SHIPPED for path in Path(name).rglob("*") if path.is_file()}
    shipped = {path for path in shipped if "__pycache__" not in path.parts}
    assert len(shipped) > 300
    assert shipped - installed == set()
