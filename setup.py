import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "tfmoe/__init__.py").read_text()).group(1)

plot = ["matplotlib>=3.8"]
rs = ["keras-rs>=0.2.1"]
docs = ["mkdocs-material>=9.6", "mkdocstrings>=0.30", "mkdocstrings-python>=1.18"]
tune = ["optuna>=4.0"]
remote = ["fsspec>=2024.6.1", "s3fs>=2024.6.1"]
spark = ["pyspark>=4.0"]
tfrs = ["tensorflow-recommenders>=0.7.7", "tf_keras>=2.18"]
test = [
    *plot,
    *rs,
    *tfrs,
    *tune,
    *remote,
    # An object store on loopback.
    "moto[s3]>=5.0.10",
    "flask>=3.0",
    "flask-cors>=4.0.1",
    "hypothesis>=6.100",
    "ipykernel>=6.29",
    "jax>=0.4.34",
    "mypy>=1.18",
    "nbmake>=1.5",
    "nox>=2024.10.9",
    "pytest>=8.2",
    "pytest-xdist>=3.6",
    "ruff>=0.15",
]

setup(
    name="tfmoe",
    version=version,
    description="Multi-task recommender models on mixtures of experts, in Keras 3",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["tfmoe", "tfmoe.*"]),
    package_data={"tfmoe": ["py.typed"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "tensorflow>=2.18",
        "keras>=3.12",
        "numpy>=1.26",
        "pandas>=2.2",
        "pyarrow>=17",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "datasketches>=5.0.1",
        "rich>=13.7",
        "typer>=0.13.1",
        "pyyaml>=6.0",
    ],
    extras_require={
        "docs": docs,
        "plot": plot,
        "remote": remote,
        "rs": rs,
        "spark": spark,
        "tfrs": tfrs,
        "tune": tune,
        "test": test,
    },
    entry_points={"console_scripts": ["tfmoe = tfmoe.cli.app:app"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
