"""Who imports whom: the rooms of `tlc_jax` import only from the rooms below them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for kind in ("*.py", "*.pyi") for path in (ROOT / "tlc_jax").rglob(kind))

LEVELS = {
    0: ("ops",),
    1: ("layers", "transform"),
    2: ("models", "inference"),  # with those below, the core: arrays in, arrays out
    3: ("files",),
    4: ("evaluation", "published"),
    5: ("training", "jobs"),
    6: ("app", "batch"),
    7: ("cli",),
    8: ("__main__", "__init__"),  # the public names stand on top of every room
}
LEVEL = {room: level for level, rooms in LEVELS.items() for room in rooms}

OPS_MAY_IMPORT = sys.stdlib_module_names | {"jax", "numpy", "chex", "tlc_jax"}
NEVER_IN_THE_LIBRARY = {"torch", "tests", "benchmarks"}
HEAVY = {"torch", "orbax", "typer", "rich", "PIL", "av", "lmdb", "matplotlib", "scipy", "grain"}
HEAVY |= {"gradio", "playwright", "pydantic", "ray", "onnx"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yields every imported module (absolute name) and whether a function delays the import."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*path.relative_to(ROOT).parts[: -node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:  # `from package import module` names the module
                module = ROOT.joinpath(*base, alias.name)
                is_module = module.is_dir() or module.with_suffix(".py").is_file()
                yield ".".join([*base, alias.name] if is_module else base), lazy
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    return visit(ast.parse(path.read_text()), False)


def room(module: str) -> str:
    """`tlc_jax.ops.box` lies in `ops`, `tlc_jax` itself in `__init__`."""
    return (module.split(".")[1:] or ["__init__"])[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = path.relative_to(ROOT).with_suffix("").parts
    for module, lazy in imports(path):
        top = module.split(".")[0]
        assert top not in NEVER_IN_THE_LIBRARY, module
        if here[1] == "ops":
            assert top in OPS_MAY_IMPORT, f"ops is jax, numpy and chex only, not {module}"
        if top == "checkpoints_convert":
            assert here[1] in ("cli", "published") and lazy, "only their functions import it"
        if top != "tlc_jax":
            continue
        if room(module) != here[1]:
            assert LEVEL[room(module)] < LEVEL[here[1]], f"{module} is not below {here[1]}"
        elif here[1] == "models":
            assert here[-1] == "__init__", "networks share through layers.py, not with one another"


def test_every_room_has_a_level():
    rooms = {path.relative_to(ROOT).with_suffix("").parts[1] for path in FILES}
    assert rooms <= LEVEL.keys(), f"give {rooms - LEVEL.keys()} a level above"


def test_import_is_cheap():
    """What only some functions need is imported by them, and nothing by `import tlc_jax` alone."""

    def modules_after(statement: str) -> set[str]:
        code = f"{statement}; import sys; print(*sys.modules)"
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return {name.split(".")[0] for name in run.stdout.split()}

    # Flax itself brings rich: only what comes on top of it is ours.
    ours = modules_after("from tlc_jax import *") - modules_after("import flax.linen")
    assert not ours & HEAVY and "jax" not in modules_after("import tlc_jax")
