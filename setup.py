"""What pyproject.toml cannot say: packages are found, and compressor.cli is the file cli.py.

Every folder with an __init__.py under compressor/ is a package, ``compressor.plugins`` the folder
plugins/; pyproject.toml maps ``compressor.cli`` to a folder that does not exist.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    def find_package_modules(self, package, package_dir):
        if package == "compressor.cli":
            return [(package, "__init__", "cli.py")]
        return super().find_package_modules(package, package_dir)

    def check_package(self, package, package_dir):
        if package == "compressor.cli":
            return None
        return super().check_package(package, package_dir)


setup(
    packages=[
        *find_packages(include=["compressor", "compressor.*"]),
        "compressor.plugins",
        "compressor.cli",
    ],
    cmdclass={"build_py": BuildPy},
)
