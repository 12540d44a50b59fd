"""Only what pyproject.toml cannot say: the module compressor.cli is the file cli.py at the root."""

from setuptools import setup
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


setup(cmdclass={"build_py": BuildPy})
