"""What `pyproject.toml` cannot say: what ships at the root is installed within spot_jax."""

from setuptools import find_namespace_packages, find_packages, setup

ROOTS = ("tasks", "gin_configs", "backbones")
inside = find_namespace_packages(include=[f"{root}{end}" for root in ROOTS for end in ("", ".*")])

setup(
    packages=[
        *find_packages(include=["spot_jax", "spot_jax.*"]),
        *(f"spot_jax._shipped.{name}" for name in inside),
    ],
    package_dir={f"spot_jax._shipped.{name}": name.replace(".", "/") for name in inside},
    package_data={
        "": ["py.typed", "*.json", "*.html", "*.css", "*.gin", "*.xz", "*.md", "*.model", "*.txt"]
        + ["*.safetensors", "SHA256SUMS"],
    },
)
