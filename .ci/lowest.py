"""Print the oldest versions that pyproject.toml allows of what users install, for pip."""

import re
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
of_users = [extras[name] for name in extras if name not in ("test", "docs", "dev", "bench")]
for package in sum(of_users, project["dependencies"]):
    if found := re.match(r"([\w-]+)>=([\w.]+)", package):
        print(f"{found[1]}=={found[2]}.*")  # releases that mend it are the same version
