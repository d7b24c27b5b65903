"""Print the lowest version that pyproject.toml allows of each package, as constraints for pip."""

import itertools
import re
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
wanted = [*project["dependencies"], *itertools.chain(*extras.values())]
pinned = {package.partition("==")[0] for package in wanted if "==" in package}
for package in wanted:
    found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", package)
    if found and found[1] not in pinned:
        print(f"{found[1]}=={found[2]}")
