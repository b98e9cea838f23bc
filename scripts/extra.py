"""Print the requirements of one extra of pyproject.toml, to install them without the package."""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib  # Python 3.10: the copy that pip carries

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
print(
    " ".join(
        requirement.replace(" ", "")
        for requirement in project["optional-dependencies"][sys.argv[1]]
    )
)
