"""Print the lowest version that pyproject.toml allows of each package, as constraints for pip."""

import re
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for packages in (project["dependencies"], *project["optional-dependencies"].values()):
    for package in packages:
        if found := re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", package):
            print("{}=={}".format(*found.groups()))
