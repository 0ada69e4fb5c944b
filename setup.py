# SPDX-License-Identifier: Apache-2.0
"""What is packaged, and what each extra needs. Settings of tools are in ``pyproject.toml``."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

XML = ["lxml>=6.1"]
ZMQ = ["pyzmq>=27.1", "msgspec>=0.22"]
HTTP = [
    # Without its own `gevent` extra gunicorn's worker fails on a missing `packaging`, with a misleading message.
    "gunicorn[gevent]>=27,<28",
    "werkzeug>=3.1.9,<4",
    "geventhttpclient>=2.4",
    "bcrypt>=5",
    "msgspec>=0.22",
]
CRON = ["cronsim>=2.8"]
TEST = [
    "pytest>=9",
    "pytest-timeout>=2.4",
    "pytest-randomly>=4",
    "pytest-xdist>=3.8",
    "hypothesis>=6.150",
    "coverage>=7.10",
    "setuptools>=77",  # the packaging tests build a wheel
]
DEV = [
    "ruff>=0.17,<0.18",  # a formatter's minor release may format anew: `scripts/check` would fail on untouched code
    "mypy>=2.4",
    "types-gevent>=26.9",  # gevent ships no types for mypy
    "types-lxml>=2026.2",
    # `scripts/docs`
    "sphinx>=8.2",
    "myst-parser>=4",
    "furo>=2025.12.19",
    "types-docutils>=0.22",
    "pykka>=4.5",  # a peer in `scripts/bench hop`
]

setup(
    name="compysition",
    # Run, not imported: the package itself needs gevent, which a build does not have.
    version=runpy.run_path(str(ROOT / "compysition" / "__about__.py"))["__version__"],
    description="Event-driven data flow: supervised actors in greenlets, wired with bounded queues",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["actors", "gevent", "dataflow", "events", "supervision", "majordomo"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Software Development :: Libraries :: Application Frameworks",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["compysition", "compysition.*"]),
    # Beside the package: pytest imports it in every project of the environment, and it must not bring gevent along.
    py_modules=["pytest_compysition"],
    package_data={"compysition": ["py.typed"]},
    include_package_data=False,  # the sdist carries more than a wheel should
    zip_safe=False,
    install_requires=["gevent>=26.9"],
    extras_require={
        "xml": XML,
        "zmq": ZMQ,
        "http": HTTP,
        "cron": CRON,
        "all": sorted({*XML, *ZMQ, *HTTP, *CRON}),
        "test": TEST,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": ["compysition = compysition.cli:main"],
        "pytest11": ["compysition = pytest_compysition"],
    },
)
