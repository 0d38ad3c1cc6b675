"""Install dal_nb from `settings.ini`, the one place where names, versions and requirements stand."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
scripts = settings.get("console_scripts", "").split()

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=settings["keywords"],
    author=settings["author"],
    license="BSD-3-Clause",
    classifiers=[
        "Development Status :: 3 - Alpha", "Intended Audience :: Science/Research", "Framework :: Jupyter",
        "Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
    url="https://github.com/dal-nb/dal_nb",
    packages=find_packages(include=["dal_nb", "dal_nb.*"]),
    include_package_data=True,
    package_data={"dal_nb": ["results/*.csv", "studies/*.yaml"]},
    python_requires=">=" + settings["min_python"],
    install_requires=settings["requirements"].split(),
    extras_require={
        extra: settings[f"{extra}_requirements"].split() for extra in ("dev", "docs", "tracking", "peers", "features")},
    entry_points={"console_scripts": scripts, "nbdev": [f"{settings['lib_name']}={settings['lib_name']}._modidx:d"]},
    zip_safe=False,
)
