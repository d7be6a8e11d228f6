"""Rules for the code: lengths, names, docstrings and import directions."""

import ast
import functools
import os
import re
import sys
from pathlib import Path

import pytest

from infra.check.readability import PRODUCT, crowded_folders, read
from infra.service_table import service_table
from tests.architecture.imports import imported, parse

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "services",
    "training",
    "sequential",
    "human_evaluation",
    "chat_format",
    "durable_files",
    "secret_detection",
    "s3_credentials",
    "infra",
    "thumbwheel_cli",
    "benchmarks",
)
MAX_FUNCTION_LINES, USUAL_FUNCTION_LINES = 60, 40
# A benchmark is a single script.
MAX_MODULE_LINES, MAX_BENCHMARK_LINES = 400, 460
# A stage shows its algorithm in a single function, top to bottom.
LONG_FUNCTION_PATHS = (
    "training/stages/",
    "training/recipes/",
    "benchmarks/",
)
BANNED_NAMES = {
    "utils",
    "util",
    "common",
    "helpers",
    "helper",
    "misc",
    "base",
    "manager",
    "handler",
    "processor",
}
SERVICES = (*service_table().names, "web")
CHASSIS_FILES = {
    "__init__",
    "admission",
    "channel",
    "endpoints",
    "errors",
    "health",
    "identity",
    "identity_keys",
    "mutual_tls",
    "retries",
    "server",
    "service_identity",
    "settings",
    "telemetry",
    "threads",
}
# Packages and root modules of training/ from the bottom to the top. A row imports rows above it.
TRAINING_LAYERS = (
    ("errors", "figures"),
    ("runs", "service_identity"),
    ("artifacts", "service_channel"),
    ("runtime",),
    ("serving",),
    ("model", "optim"),
    ("tokenization",),
    ("data",),
    ("corpus",),
    ("losses", "parallelism"),
    ("decoding",),
    ("rl",),
    ("stages", "evaluation", "verification"),
    ("benchmarks",),
    ("probes",),
    ("evaluation_items",),
    ("planning", "stage_record"),
    ("progress_log",),
    ("reporting",),
    ("cluster",),
    ("data_path", "model_store"),
    ("recipes", "launching", "erasure"),
    ("loop_run", "remote"),
    ("loop",),
    ("data_commands",),
    ("reviews",),
    ("commands",),
    ("__main__",),
)
# Two adjacent words of a sentence.
WORDS = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,}")
# Modules and folders at the edge of a service, with the reason. All others are domain modules.
EDGES = {
    "__main__": "constructs channels, engines and clients",
    "access": "checks the metadata of gRPC calls",
    "servicer": "implements the generated gRPC classes",
    "store": "reads and writes the database of the service",
    "peers": "calls other services",
    "shared": "reads and writes Valkey",
    "kafka": "reads and writes Kafka",
}
# Packages that only the edge imports. The modules *_pb2_grpc count as grpc.
DRIVERS = {
    "aiobotocore",
    "aiokafka",
    "aiosqlite",
    "asyncpg",
    "boto3",
    "grpc",
    "kafka",
    "minio",
    "redis",
    "sqlalchemy",
    "valkey",
}
# Prefixes of paths whose modules still contain statements or calls that belong to the edge.
DRIVER_EXCEPTIONS = {
    # Statements on the tables of one subject; they run in the transaction of the ledger.
    "services/feedback/commands": {"sqlalchemy"},
    "services/feedback/compaction": {"sqlalchemy"},
    "services/feedback/principals": {"sqlalchemy"},
    "services/feedback/projections": {"sqlalchemy"},
    "services/feedback/sink": {"sqlalchemy"},
    "services/feedback/spool": {"sqlalchemy"},
    # The ledger and its statements, and the client of the object store.
    "services/feedback/lake": {"minio", "sqlalchemy"},
}


def modules() -> list[Path]:
    found = [file for folder in CODE for file in (ROOT / folder).rglob("*.py")]
    return sorted(file for file in found if "node_modules" not in file.parts)


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring: explanations are not limited."""
    first = node.body[0]
    is_docstring = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


@functools.cache
def functions(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node
        for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_module_is_short_and_has_a_docstring() -> None:
    wrong = []
    for file in modules():
        text = file.read_text()
        docstring = ast.get_docstring(parse(file)) or ""
        lines, words = len(text.splitlines()), len(docstring.splitlines())
        # A module docstring has 1 to 6 lines; a drawing may be longer.
        in_benchmarks = relative(file).startswith("benchmarks/")
        limit = MAX_BENCHMARK_LINES if in_benchmarks else MAX_MODULE_LINES
        if lines > limit or not 0 < words <= 16:
            wrong.append(f"{relative(file)}: {lines} lines, {words} of docstring")
    assert wrong == []


def test_function_is_short() -> None:
    wrong = [
        f"{relative(file)}:{node.lineno} {node.name}: {code_lines(node)} lines"
        for file in modules()
        if not relative(file).startswith(LONG_FUNCTION_PATHS)
        for node in functions(file)
        if code_lines(node) > MAX_FUNCTION_LINES
    ]
    assert wrong == []


def test_few_functions_are_longer_than_40_lines() -> None:
    lengths = [code_lines(node) for file in modules() for node in functions(file)]
    share = sum(length > USUAL_FUNCTION_LINES for length in lengths) / len(lengths)
    assert share <= 0.02, (
        f"{share:.1%} of the functions are longer than {USUAL_FUNCTION_LINES} lines"
    )


def test_module_names_are_specific() -> None:
    paths = [file.relative_to(ROOT) for file in modules()]
    banned = [
        str(path)
        for path in paths
        if BANNED_NAMES & {part.removesuffix(".py") for part in path.parts}
    ]
    assert not banned


@pytest.mark.parametrize("service", SERVICES)
def test_service_imports_no_other_service_and_no_training(service: str) -> None:
    others = tuple(f"services.{other}" for other in SERVICES if other != service)
    for file in (ROOT / "services" / service).rglob("*.py"):
        names = [name for name in imported(file) if name.startswith((*others, "training", "infra"))]
        assert not names, f"{relative(file)} imports {names}"


def test_domain_modules_import_neither_grpc_nor_a_database_driver() -> None:
    wrong = []
    for file in modules():
        path = file.relative_to(ROOT)
        is_service = path.parts[0] == "services" and path.parts[1] != "chassis"
        if not is_service or EDGES.keys() & {*path.parts[2:-1], path.stem}:
            continue
        packages = {
            "grpc" if name.endswith("_pb2_grpc") else name.split(".")[0] for name in imported(file)
        }
        for prefix, excepted in DRIVER_EXCEPTIONS.items():
            if relative(file).startswith(prefix):
                packages -= excepted
        wrong += [f"{path} imports {driver}" for driver in sorted(packages & DRIVERS)]
    assert wrong == []


def test_contracts_import_no_service() -> None:
    """Permit errors and identity of the chassis, and generated protos in the conversion only."""
    allowed = ("services.contracts", "services.chassis.errors", "services.chassis.identity")
    for file in (ROOT / "services" / "contracts").glob("*.py"):
        names = [
            name
            for name in imported(file)
            if name.startswith(("services", "training", "infra")) and not name.startswith(allowed)
        ]
        assert not names, f"{relative(file)} imports {names}"
        protos = [name for name in imported(file) if name.startswith(("thumbwheel", "google"))]
        assert file.stem == "wire" or not protos, f"{relative(file)} imports {protos}"


def test_training_imports_no_service() -> None:
    for file in (ROOT / "training").rglob("*.py"):
        names = [name for name in imported(file) if name.startswith(("services", "infra"))]
        assert not names, f"{relative(file)} imports {names}"


@pytest.mark.parametrize(
    ("package", "libraries"),
    [
        ("sequential", {"numpy"}),
        ("human_evaluation", {"numpy"}),
        ("chat_format", {"jinja2", "tokenizers"}),
        ("durable_files", set()),
        ("secret_detection", set()),
        ("s3_credentials", {"minio", "urllib3"}),
    ],
)
def test_shared_packages_import_nothing_of_the_project(package: str, libraries: set[str]) -> None:
    """Services and training share these packages, so neither may come with them."""
    allowed = {package, *libraries, *sys.stdlib_module_names}
    for file in (ROOT / package).rglob("*.py"):
        names = [name for name in imported(file) if name.split(".")[0] not in allowed]
        assert not names, f"{relative(file)} imports {names}"


def training_imports() -> dict[str, set[str]]:
    """Return the modules of training/ that each module of training/ imports at run time."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in (ROOT / "training").rglob("*.py")
    }
    return {
        name: (set(imported(file, run_time=True)) & files.keys()) - {name}
        for name, file in files.items()
    }


def test_training_packages_import_lower_layers_only() -> None:
    layers = {name: row for row, names in enumerate(TRAINING_LAYERS) for name in names}
    wrong = []
    for module, targets in training_imports().items():
        for target in targets - {"training"} if module != "training" else ():
            above, below = module.split(".")[1], target.split(".")[1]
            if above != below and layers[below] >= layers[above]:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_training_modules_import_each_other_in_one_direction() -> None:
    """Remove modules without remaining imports until none is left; a circle would remain."""
    remaining = {
        module: {target for target in targets if not module.startswith(f"{target}.")}
        for module, targets in training_imports().items()
    }
    while leaves := {module for module, targets in remaining.items() if not targets}:
        remaining = {
            module: targets - leaves
            for module, targets in remaining.items()
            if module not in leaves
        }
    assert remaining == {}


def test_folders_are_small() -> None:
    assert list(crowded_folders(read(*PRODUCT))) == []


def test_only_training_cluster_imports_ray() -> None:
    for file in modules():
        if not relative(file).startswith("training/cluster/"):
            assert not [name for name in imported(file) if re.match(r"ray(\.|$)", name)], relative(
                file
            )


def test_no_service_imports_torch_or_transformers() -> None:
    for file in (ROOT / "services").rglob("*.py"):
        assert not [
            name for name in imported(file) if name.split(".")[0] in ("torch", "transformers")
        ], relative(file)


def test_chassis_has_a_fixed_list_of_small_modules() -> None:
    files = list((ROOT / "services" / "chassis").glob("*.py"))
    assert {file.stem for file in files} == CHASSIS_FILES
    assert sum(len(file.read_text().splitlines()) for file in files) <= 2_500


def test_tests_do_not_compare_the_wording_of_errors() -> None:
    """Permit only identifiers, files and numbers in `match=`.

    tests/support/errors.py compares field, reason and limit.
    """
    found = [
        f"{relative(file)}:{call.lineno}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        if "match=" in file.read_text()
        for call in ast.walk(parse(file))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "raises"
        for keyword in call.keywords
        if keyword.arg == "match" and WORDS.search(ast.unparse(keyword.value))
    ]
    assert found == []


def test_test_modules_import_no_test_module() -> None:
    """Keep shared test code in conftest.py, tests/support/ or a module beside the tests."""
    found = [
        f"{relative(file)}: {name}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for name in imported(file)
        if name.startswith("tests.") and name.rsplit(".")[-1].startswith("test_")
        if (ROOT / f"{name.replace('.', '/')}.py").is_file()
    ]
    assert found == []


def test_code_contains_no_pickle_and_no_eval() -> None:
    dangerous = re.compile(
        r"\b(pickle|cPickle|joblib|marshal)\b|torch\.load|yaml\.load\(|"
        r"(?<![\w.])eval\(|(?<![\w.])exec\(|shell=True"
    )
    for file in modules():
        code = "\n".join(line.split("#")[0] for line in file.read_text().splitlines())
        calls = [match.group() for match in dangerous.finditer(_without_strings(code))]
        assert not calls, f"{relative(file)}: {calls}"


def _without_strings(code: str) -> str:
    """Remove strings, because docstrings may name forbidden calls."""
    return re.sub(r'"""(?:.|\n)*?"""|"[^"\n]*"', '""', code)


def test_files_contain_no_registry_hosts_and_no_machine_paths() -> None:
    hosts = re.compile(
        r"(pypi\.org|pythonhosted|registry\.npmjs|proxy\.golang|repo\.maven|"
        r"huggingface\.co/api)|/root/|/work/"
    )
    text_kinds = {
        ".py",
        ".md",
        ".txt",
        ".json",
        ".toml",
        ".yaml",
        ".yml",
        ".sh",
        ".ts",
        ".tsx",
        ".mjs",
        ".proto",
        ".css",
        ".html",
    }
    skipped = {".venv", "node_modules", ".git", ".state", "__pycache__"}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = set(folders) - skipped
        for file in (Path(folder, name) for name in names):
            if (
                file.suffix not in text_kinds
                or file == Path(__file__).resolve()
                or not file.is_file()
            ):
                continue
            assert not hosts.search(file.read_text(errors="replace")), relative(file)
