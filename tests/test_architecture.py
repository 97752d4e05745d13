"""The rules of the design, checked against the source: each test is one rule.

The import graph has imports at module level only. Imports under TYPE_CHECKING do not count. Imports inside a function
delay heavy libraries and are checked where that matters.
"""

import ast
import graphlib
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from batchrunner.providers import registry
from tests.conftest import ROOT, for_all

PACKAGE = "batchrunner"
MOST_LINES = 500  # a module longer than this should be split; longer ones need a reason here
# Above MOST_LINES: module and reason.
LONG_FILES: dict[str, str] = {"batchrunner.cli": "one function for each command, with its help"}
# Purity is a property of packages. IMPURE names the modules of these packages that read files or the clock, or open
# connections.
PURE_PACKAGES = ("plan", "engine.polling", "manifest", "progress", "providers.aimlapi", "report", "sandbox.faults")
IMPURE = {"providers.aimlapi.client", "providers.aimlapi.submission_body", "report.html", "report.writer"}
PURE_MODULES = {
    *("app.run_started", "errors", "events", "formatting", "job", "moments", "net.proxies", "redaction", "settings"),
    *(
        f"engine.{name}"
        for name in (
            *(
                "admitter",
                "backoff",
                "circuit_breaker",
                "confirmation",
                "delivery_queue",
                "download_queue",
                "evidence",
                "in_doubt",
            ),
            *("job_queue", "limits", "outcomes", "policy", "poll_history", "run_deadline", "shared_work", "shutdown"),
        )
    ),
    *(f"account.{name}" for name in ("base", "fairness", "limits", "names", "reuse", "rows")),
    *(
        f"datasets.{name}"
        for name in ("card", "columns", "croissant", "details", "features", "filenames", "inferred_types")
    ),
    *(f"datasets.{name}" for name in ("description", "items", "shards", "splits", "sums")),
    *(
        "journal.rows",
        "journal.statements",
        "providers.base",
        "providers.endpoint",
        "providers.models",
        "providers.registry",
        "review.guard",
        "sandbox.clips.marks",
        "storage.objects.address",
        "storage.objects.staged_names",
    ),
    *(f"quality.{name}" for name in ("marks", "measures")),
    *(f"sandbox.{name}" for name in ("billing", "logs", "models", "replies", "validation", "world")),
    *(f"workers.{name}" for name in ("results", "spec")),
    *(f"transfer.{name}" for name in ("content_coding", "cookies", "expectations", "link_expiry")),
}
IMPURE_LIBRARIES = {"asyncio", "aiohttp", "aiofiles", "sqlite3", "time", "random"}
HEAVY = {"aiohttp", "av", "numpy", "PIL", "rich", "jinja2", "sqlite3", "jsonschema", "yaml"}
TASKS = {"create_task", "ensure_future", "gather", "TaskGroup", "wait_for", "run_coroutine_threadsafe"}
TASK_MAKERS = {
    "batchrunner.engine.loop",
    "batchrunner.app.runner",
    "batchrunner.review.server",
    "batchrunner.sandbox.server",
}
LOOP_STARTERS = {
    f"batchrunner.{name}"
    for name in (
        *("app.account_view", "app.doctor", "app.price_list", "app.resolve", "app.review_page", "app.runner"),
        *("app.staged_inputs", "sandbox.serve", "storage.objects.blocking", "storage.objects.inputs"),
        "transfer.remote_fetch",
    )
}
EXTRAS = ("c2pa", "dask", "parquet", "s3")  # of the package itself; imported only inside functions
DISTRIBUTIONS = {"c2pa": "c2pa-python", "dask_jobqueue": "dask-jobqueue", "yaml": "pyyaml", "PIL": "pillow"}


@dataclass
class Module:
    """A module of the package. It is read when a test needs its content, not when the tests are collected."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def _gathered(self) -> tuple[set[str], set[str]]:
        imports: set[str] = set()
        later: set[str] = set()
        gather_imports(self, self.tree, imports, later)
        return imports, later

    @property
    def imports(self) -> set[str]:
        """The full names that are imported at module level."""
        return self._gathered[0]

    @property
    def later(self) -> set[str]:
        """The full names that are imported inside functions."""
        return self._gathered[1]

    @property
    def inner(self) -> set[str]:
        """The modules of the package that are imported at module level."""
        return {name for name in self.imports if name in modules()}


@cache
def sources() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    return found


@cache
def modules() -> dict[str, Module]:
    return {name: Module(name, path) for name, path in sources().items()}


def gather_imports(module: Module, node: ast.AST, into: set[str], later: set[str]) -> None:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            continue  # an expression imports nothing
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            into |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module.name}:{child.lineno}: a relative import"
            base = child.module or ""
            into |= {full if (full := f"{base}.{alias.name}") in sources() else base for alias in child.names}
            into |= {f"{base}:{alias.name}" for alias in child.names}
        within = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        gather_imports(module, child, later if within else into, later)


@cache
def pure() -> frozenset[str]:
    """The modules that do no I/O and use no clock and no random numbers, by name within the package."""
    names = {name.removeprefix(f"{PACKAGE}.") for name in modules()}
    of_packages = {name for name in names if name.startswith(tuple(f"{package}." for package in PURE_PACKAGES))}
    return frozenset(of_packages - IMPURE | PURE_MODULES)


def everything() -> list[Module]:
    return list(modules().values())


def nodes(module: Module, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    return (node for node in module.nodes if isinstance(node, kinds))


def place(module: Module, node: ast.AST) -> str:
    return f"{module.path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def by_name(module: Module) -> str:
    return module.name


# Imports


def test_imports_point_down_and_have_no_cycle() -> None:
    graph = {module.name: module.inner for module in everything()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_the_rules_find_the_package() -> None:
    """Without this, the other rules could pass on an empty list."""
    assert len(modules()) > 50
    assert "batchrunner.job" in modules()["batchrunner.plan.resume"].inner
    assert "batchrunner.providers.aimlapi.responses" in modules()["batchrunner.providers.aimlapi.client"].inner
    assert "av" in modules()["batchrunner.media.decoder"].later
    assert "batchrunner.app.runner" in modules()["batchrunner.app.start"].later


def test_only_the_version_is_imported_from_the_package_itself() -> None:
    wrong = []
    for module in everything():
        names = {name.partition(":")[2] for name in module.imports | module.later if name.startswith(f"{PACKAGE}:")}
        taken = {name for name in names if f"{PACKAGE}.{name}" not in modules()}
        if f"{PACKAGE}" in module.imports | module.later:
            attributes = [node for node in module.nodes if isinstance(node, ast.Attribute)]
            taken |= {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == PACKAGE}
        allowed = {"__version__"} if module.name.rpartition(".")[2] in {"cli", "run_end", "start", "status"} else set()
        wrong += [f"{module.name}: {name}" for name in taken - allowed]
    assert wrong == []


def test_only_the_registry_names_a_providers_package() -> None:
    """A second provider does not touch the engine or any other package."""
    packages = {name for name in modules() if re.fullmatch(r"batchrunner\.providers\.\w+", name)}
    packages = {name for name in packages if any(other.startswith(f"{name}.") for other in modules())}
    assert "batchrunner.providers.aimlapi" in packages
    for module in everything():
        if module.name == "batchrunner.providers.registry":
            continue
        names = {name.partition(":")[0] for name in module.imports | module.later}
        for package in packages:
            inside = module.name == package or module.name.startswith(f"{package}.")
            assert inside or not any(f"{name}.".startswith(f"{package}.") for name in names), module.name


def test_the_engine_uses_only_the_neutral_provider_types() -> None:
    for module in everything():
        if module.name.startswith("batchrunner.engine"):
            names = {name.partition(":")[0] for name in module.imports | module.later}
            known = {name for name in names if name.startswith("batchrunner.providers")}
            assert known <= {"batchrunner.providers", "batchrunner.providers.base"}, module.name


def test_only_a_model_s_file_and_its_provider_know_the_fields_of_requests() -> None:
    """A model with other fields is one file: no module has to learn their names."""
    fields = {item.field for spec in registry.models().values() for item in spec.inputs}
    assert fields >= {"video_url", "image_url"}
    pattern = re.compile(rf"\b({'|'.join(sorted(fields))})\b")
    for module in everything():
        if not module.name.startswith("batchrunner.providers.aimlapi"):
            assert not pattern.search(module.text), module.name


def test_errors_imports_nothing_of_the_package() -> None:
    module = modules()["batchrunner.errors"]
    assert not [name for name in module.imports | module.later if name.startswith(PACKAGE)]


@for_all(sorted(pure()), str)
def test_pure_modules_import_no_io(short: str) -> None:
    todo, seen = [f"{PACKAGE}.{short}"], set[str]()
    while todo:
        module = modules()[todo.pop()]
        seen.add(module.name)
        roots = {name.partition(":")[0].partition(".")[0] for name in module.imports}
        assert not roots & IMPURE_LIBRARIES, f"{short} reaches {roots & IMPURE_LIBRARIES} through {module.name}"
        todo += module.inner - seen


@for_all(everything(), by_name)
def test_modules_that_call_themselves_pure_are_checked(module: Module) -> None:
    says_so = re.search(r"(^|\W)Pure(\.|:|;)", ast.get_docstring(module.tree) or "")
    assert bool(says_so) == (module.name.removeprefix("batchrunner.") in pure()) or not says_so


def test_the_sandbox_shares_no_code_with_the_client() -> None:
    for module in everything():
        if not module.name.startswith("batchrunner.sandbox"):
            continue
        allowed = {
            "batchrunner.clock",
            "batchrunner.errors",
            "batchrunner.formatting",
        }  # not the format of the service's replies
        if module.name == "batchrunner.sandbox.serve":
            allowed.add("batchrunner.settings")
        names = {name.partition(":")[0] for name in module.imports | module.later} & set(modules())
        outside = {name for name in names if not name.startswith("batchrunner.sandbox")} - {PACKAGE}
        assert outside <= allowed, f"{module.name} imports {outside - allowed}"


# Time and tasks


TIMES = {"call_later", "call_at", "time_ns", "perf_counter", "monotonic_ns"}


def name_in(node: ast.AST) -> str:
    """Return the last part of a name: ``asyncio.sleep`` gives "sleep"."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def called(node: ast.AST) -> tuple[str, str]:
    """Return a called name as (owner, name): ``asyncio.sleep`` gives ("asyncio", "sleep")."""
    return ast.unparse(node.value) if isinstance(node, ast.Attribute) else "", name_in(node)


def reads_time(node: ast.AST) -> bool:
    if name_in(node) not in TIMES | {"now", "utcnow", "today", "sleep", "time"}:
        return False
    owner, name = called(node)
    root = owner.rpartition(".")[2]
    return (
        (root in {"datetime", "date"} and name in {"now", "utcnow", "today"})
        or (root == "asyncio" and name == "sleep")
        or name in TIMES
        or (name == "time" and ("loop" in owner or root == "time"))
    )


@for_all(everything(), by_name)
def test_only_the_clock_reads_time_or_sleeps(module: Module) -> None:
    if module.name == "batchrunner.clock":
        return
    assert "time" not in {name.partition(":")[0] for name in module.imports | module.later}
    assert [place(module, node) for node in nodes(module, ast.Attribute, ast.Name) if reads_time(node)] == []


@for_all(everything(), by_name)
def test_tasks_and_loops_are_created_only_in_the_listed_modules(module: Module) -> None:
    if module.name not in TASK_MAKERS:
        found = [place(module, node) for node in nodes(module, ast.Attribute, ast.Name) if name_in(node) in TASKS]
        assert found == []
    if module.name not in LOOP_STARTERS:
        found = [
            place(module, node)
            for node in nodes(module, ast.Attribute)
            if name_in(node) in {"run", "Runner", "new_event_loop"}
            and called(node) in {("asyncio", "run"), ("asyncio", "Runner"), ("asyncio", "new_event_loop")}
        ]
        assert found == []


def test_the_listed_modules_create_tasks_and_loops() -> None:
    for name in TASK_MAKERS - {"batchrunner.app.runner"}:
        assert any(name_in(node) in TASKS for node in nodes(modules()[name], ast.Attribute))
    assert any(reads_time(node) for node in nodes(modules()["batchrunner.clock"], ast.Attribute))


# Sizes and docstrings


@for_all(everything(), by_name)
def test_functions_are_short_and_take_few_parameters(module: Module) -> None:
    for node in nodes(module, ast.FunctionDef, ast.AsyncFunctionDef):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        lines = (node.end_lineno or 0) - node.lineno + 1
        assert lines <= 45, f"{place(module, node)}: {node.name} has {lines} lines"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in {"self", "cls"}]
        assert len(names) <= 7, f"{place(module, node)}: {node.name} takes {len(names)} parameters"


@for_all(everything(), by_name)
def test_a_long_module_has_a_reason(module: Module) -> None:
    lines = len(module.text.splitlines())
    assert (lines > MOST_LINES) <= (module.name in LONG_FILES), f"{module.name} has {lines} lines"


def test_only_long_modules_have_a_reason() -> None:
    assert {name for name in LONG_FILES if len(modules()[name].text.splitlines()) <= MOST_LINES} == set()


@for_all(everything(), by_name)
def test_every_module_describes_its_content(module: Module) -> None:
    text = ast.get_docstring(module.tree)
    assert text
    assert text.splitlines()[0].endswith((".", ":")), "the first line is a sentence"


CALM = re.compile(r"#\s*noqa(?P<codes>:\s*[A-Z]+\d+(\s*,\s*[A-Z]+\d+)*)?(?P<reason>.*)")
IGNORE = re.compile(r"#\s*type:\s*ignore(?P<codes>\[[a-z, -]+\])?(?P<reason>.*)")


def comments(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@for_all(everything(), by_name)
def test_every_exemption_names_its_rule_and_its_reason(module: Module) -> None:
    if not any(pattern.search(module.text) for pattern in (CALM, IGNORE)):
        return
    for line, text in comments(module.path):
        for pattern in (CALM, IGNORE):
            if match := pattern.search(text):
                assert match["codes"], f"{module.path.name}:{line}: which rule?"
                assert len(re.sub(r"\W", "", match["reason"])) >= 8, f"{module.path.name}:{line}: no reason given"


@for_all(everything(), by_name)
def test_only_the_job_border_and_the_event_bus_catch_every_exception(module: Module) -> None:
    wide = []
    for node in nodes(module, ast.ExceptHandler):
        assert isinstance(node, ast.ExceptHandler)
        names = {"bare"} if node.type is None else {one.id for one in ast.walk(node.type) if isinstance(one, ast.Name)}
        if names & {"bare", "Exception", "BaseException"}:
            wide.append(place(module, node))
    assert len(wide) == int(module.name in {"batchrunner.engine.loop", "batchrunner.events"}), wide


# What is installed and loaded


def test_the_dependencies_are_the_imported_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"]}
    names = {name for module in everything() for name in module.imports | module.later}
    roots = {name.partition(":")[0].partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {PACKAGE}
    further = [line for name in EXTRAS for line in project["optional-dependencies"][name]]
    extras = {re.split(r"[^\w-]", line)[0].lower() for line in further}
    assert declared | extras == {DISTRIBUTIONS.get(name, name) for name in roots}
    assert not extras & declared
    assert all(">=" in line and "<" not in line for line in project["dependencies"]), "lower bounds only"


def loaded_by(arguments: list[str] | None, cwd: Path, *, status: int = 0, **environment: str) -> set[str]:
    """Return the modules that a command has loaded when it ends. None: the bare import."""
    call = "pass" if arguments is None else f"sys.argv[1:] = {arguments}; batchrunner.cli.main()"
    code = f"import sys, atexit, batchrunner.cli\natexit.register(lambda: print('LOADED', *sys.modules))\n{call}"
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHRUNNER_", "FORCE_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=60,
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == status, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [None, ["--help"], ["--version"], ["run", "--help"], []], ids=str)
def test_help_loads_no_heavy_library(arguments: list[str] | None) -> None:
    assert not loaded_by(arguments, ROOT, status=2 if arguments == [] else 0) & (HEAVY | {"asyncio"})


ONE_JOB = "- {video: https://example.com/walk.mp4, image: https://example.com/hero.png}"
ONE_ROW = '{"video": "https://example.com/walk.mp4", "image": "https://example.com/hero.png"}'
NO_JOB = "matrix: [{video: none/*.mp4, image: none/*.png, allow_empty: true}]"
SANDBOX = {"batchrunner.sandbox", "batchrunner.sandbox.server", "multiprocessing", "aiohttp.web"}
# Modules for buckets, clusters, hooks, plans and JUnit XML, which most runs do not use.
RARE = {"configparser", "html", "xml.etree"} | {
    f"batchrunner.{name}"
    for name in (
        *("plan.egress", "plan.projection", "plan.render", "review.hook", "storage.objects.signing"),
        *("storage.objects.staging", "storage.objects.store", "transfer.bucket_delivery", "transfer.remote_fetch"),
        *("workers.executor_decoders", "workers.resending"),
    )
}
# Modules that a command must not load, directly or indirectly. YAML is for manifests, SQLite for journals.
SPARED = {
    "validate": (HEAVY - {"yaml"}) | SANDBOX | {"asyncio"},
    "plan": (HEAVY - {"yaml", "sqlite3", "aiohttp"}) | SANDBOX,  # it asks the service for prices and balance
    "status": (HEAVY - {"sqlite3"}) | SANDBOX | {"asyncio"},
    "validate, a table": HEAVY | SANDBOX | {"asyncio"},
    "run": (HEAVY - {"yaml", "sqlite3", "aiohttp", "jinja2"}) | SANDBOX | RARE,
    "run, nothing to do": (HEAVY - {"yaml", "sqlite3"}) | SANDBOX | {"asyncio", "batchrunner.app.runner"},
}


def test_commands_load_only_what_they_use(tmp_path: Path) -> None:
    """With remote inputs, a remote service and no terminal."""
    (tmp_path / "one.yaml").write_text(ONE_JOB)
    (tmp_path / "one.jsonl").write_text(ONE_ROW)
    (tmp_path / "none.yaml").write_text(NO_JOB)
    commands = {
        "run": ["run", "none.yaml"],  # without jobs, no request is sent
        "run, nothing to do": ["run", "none.yaml"],
        "validate": ["validate", "one.yaml"],
        "validate, a table": ["validate", "one.jsonl"],
        "plan": ["plan", "one.yaml"],
        "status": ["status", "output/none"],
    }
    needless = {}
    for name, arguments in commands.items():
        loaded = loaded_by(arguments, tmp_path, AIMLAPI_KEY="key", AIMLAPI_BASE_URL="http://127.0.0.1:9")
        needless[name] = loaded & SPARED[name]
    assert not any(needless.values()), needless


# Tests

# Files whose tests replace a private function or attribute of the package, and why. A private constant may be lowered.
REPLACES_PRIVATE_NAMES = {
    "app/test_up_to_date.py": "a digest that matches although the manifest changed",
    "hostile/test_files.py": "a file that changes between two system calls",
    "journal/test_journal.py": "a disk that fails, or a writer that commits, between two statements of SQLite",
    "media/test_posters.py": "a poster that takes long to make",
    "powercut/disk.py": "the simulated disk sets up another one of its own kind",
    "providers/aimlapi/test_client.py": "an address that only a loopback server can have",
    "sandbox/test_conditions.py": "a time-out of aiohttp's own session",
    "sandbox/test_http.py": "a time-out of aiohttp's own session",
    "scenarios/test_mutations.py": "each test breaks a guarantee on purpose",
}


def is_private(name: str) -> bool:
    """Return whether a name is private and no constant."""
    return name.startswith("_") and not name.startswith("__") and not name.isupper()


def replaced_private_names(tree: ast.AST) -> Iterator[str]:
    """Private attributes, or items of them, that a test sets or deletes on an object other than its own ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target = node.value if isinstance(node, ast.Subscript) else node
            own = isinstance(target, ast.Attribute) and ast.unparse(target.value) in {"self", "cls"}
            if isinstance(target, ast.Attribute) and is_private(target.attr) and not own:
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and name_in(node.func) in {"setattr", "delattr", "patch", "object"}:
            names = [one.value for one in node.args[:2] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if any(is_private(name.rpartition(".")[2]) for name in names):
                yield f"{node.lineno}: {names[0]}"


def test_tests_replace_no_private_attribute() -> None:
    """They use the seams that the design names, so that the code behind them can change."""
    tests = ROOT / "tests"
    found = {
        str(path.relative_to(tests)): wrong
        for path in sorted(tests.rglob("*.py"))
        if (wrong := list(replaced_private_names(ast.parse(path.read_text("utf-8")))))
    }
    assert {name: wrong for name, wrong in found.items() if name not in REPLACES_PRIVATE_NAMES} == {}
    assert set(REPLACES_PRIVATE_NAMES) <= set(found), "an exemption that nothing needs"


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("engine._spawn = spawn", True),
        ("del engine._spawn", True),
        ("engine._running['poll'] = 1", True),
        ("self._clock = clock", False),
        ("monkeypatch.setattr(loop, '_spawn', spawn)", True),
        ("monkeypatch.setattr('batchrunner.engine.loop._spawn', spawn)", True),
        ("monkeypatch.setattr(loop, '_MOST', 3)", False),
        ("monkeypatch.setattr(loop, 'spawn', spawn)", False),
        ("setattr(engine, '_spawn', spawn)", True),
    ],
)
def test_the_rule_sees_what_tests_replace(text: str, *, is_found: bool) -> None:
    assert bool(list(replaced_private_names(ast.parse(text)))) is is_found
