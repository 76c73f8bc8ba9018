"""The package as it is installed: light to import, whole in every form."""

import ast
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

import lrbench_hpo

ROOT = pathlib.Path(__file__).parents[1]
FRONT = ROOT / "lrbench_hpo" / "__init__.py"
HEAVY = ("torch", "torchvision", "ray", "optuna", "pandas", "matplotlib")


def loaded(code):
    """Names of the heavy packages that some code loads."""
    check = f"import sys; {code}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-P", "-c", check], capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import lrbench_hpo",
        "import lrbench_hpo; dir(lrbench_hpo); lrbench_hpo.LRPolicy('FIX', k0=0.1)(0)",
        "import lrbench_hpo; lrbench_hpo.recommend('mnist', 'lenet', database='sqlite://')",
        "import lrbench_hpo.cli",
    ],
)
def test_the_front_is_light(code):
    assert loaded(code) == []


def test_help_loads_nothing_heavy():
    code = "sys.argv = ['lrbench-hpo', '--help']; from lrbench_hpo.cli import app; " + (
        "app.main(standalone_mode=False)"
    )
    assert not set(loaded(code)) & set(HEAVY)


def test_a_search_without_ray_loads_no_ray():
    code = "from lrbench_hpo.cli import tune_local; import lrbench_hpo.study.objective"
    assert "ray" not in loaded(code)


def test_create_study_needs_no_torch():
    code = "import lrbench_hpo; lrbench_hpo.create_study('mnist', 'lenet', database='sqlite://')"
    assert loaded(code) == ["optuna"]


def test_every_public_name_is_there():
    for name in lrbench_hpo.__all__:
        assert getattr(lrbench_hpo, name).__doc__
    assert set(lrbench_hpo.__all__) <= set(dir(lrbench_hpo))
    assert lrbench_hpo.__version__
    with pytest.raises(AttributeError, match="nothing"):
        lrbench_hpo.nothing  # noqa: B018


def test_every_public_name_is_loaded_lazily_and_declared_to_type_checkers():
    [block] = [
        node
        for node in ast.parse(FRONT.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    declared = {
        alias.name: f"{imported.module}.{alias.name}"
        for imported in block.body
        for alias in imported.names
    }
    homes = {name: f"lrbench_hpo.{home}.{name}" for name, home in lrbench_hpo._HOME.items()}
    assert declared == homes
    assert sorted(homes) == sorted(lrbench_hpo.__all__)


def test_a_type_checker_knows_the_public_names_and_no_others(tmp_path):
    user = tmp_path / "user.py"
    user.write_text(
        "import lrbench_hpo\nversion: str = lrbench_hpo.__version__\nlrbench_hpo.no_such\n"
    )
    # The modules that the front names are not followed: reading torch and ray takes a minute.
    options = ["--strict", "--config-file=", "--no-error-summary", "--follow-imports=skip"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, f"--cache-dir={os.devnull}", user, FRONT],
        capture_output=True,
        text=True,
    )
    [line] = done.stdout.splitlines()
    assert "user.py:3: error: " in line
    assert line.endswith("[attr-defined]")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "ray", "matplotlib"])
def test_a_public_name_is_there_or_says_which_extra_it_needs(module):
    script = f"""
import sys
sys.modules[{module!r}] = None
import lrbench_hpo
for name in lrbench_hpo.__all__:
    try:
        getattr(lrbench_hpo, name)
    except lrbench_hpo.errors.MissingExtraError as error:
        print(name)
    """
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {
        "torch": ["range_test_on"],
        "ray": ["LRBenchSearcher", "RecordRuns", "train"],
        "matplotlib": [],
    }
    assert done.stdout.split() == expected[module]


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("torch", "lrbench_hpo.Objective('digits', 'mlp', database='sqlite://')", "torch"),
        ("torchvision", "lrbench_hpo.Objective('digits', 'mlp', database='sqlite://')", "torch"),
        ("torch", "lrbench_hpo.LRPolicy('FIX', k0=1).torch_scheduler(None)", "torch"),
        ("sklearn", "lrbench_hpo.Objective('digits', 'mlp', database='sqlite://')", "torch"),
        ("ray", "lrbench_hpo.LRBenchSearcher()", "ray"),
        ("ray", "lrbench_hpo.RecordRuns()", "ray"),
        ("ray", "lrbench_hpo.train", "ray"),
        ("ray", "from lrbench_hpo.cli.tune_ray import tune_ray; tune_ray(None, None)", "ray"),
        ("psycopg2", "lrbench_hpo.connect('postgresql://localhost/x')", "postgres"),
        (
            "matplotlib",
            "import lrbench_hpo.cli.plots as p;"
            " p.plot_policies([lrbench_hpo.LRPolicy('FIX', k0=1)], 10, 'x.png')",
            "plots",
        ),
    ],
)
def test_a_missing_extra_is_one_line_with_the_pip_command(module, code, extra):
    # None in sys.modules makes an import fail as if the package were not installed.
    script = f"import sys; sys.modules[{module!r}] = None; import lrbench_hpo; {code}"
    failed = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    last = failed.stderr.strip().splitlines()[-1]
    assert f"pip install 'lrbench-hpo[{extra}]'" in last


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The checkout, built as sdist and, from that, as wheel."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "checkout"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".tox", "build", "dist", "*.egg-info", ".*_cache"
    )
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    # Developers may have a link here, in place of an editable install; a checkout has none.
    (copy / "lrbench_hpo" / "search_spaces").unlink(missing_ok=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    return copy, next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def pip_install(target, *what):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, *what], check=True, capture_output=True)


CHECK = """
import lrbench_hpo, pathlib
from lrbench_hpo.policies.space_files import load_space, published_spaces
assert published_spaces() == ('cifar10-cnn3', 'cifar10-resnet32', 'default', 'mnist-lenet')
assert all(load_space(name).functions for name in published_spaces())
assert lrbench_hpo.connect('sqlite://').stats().runs == 61
assert pathlib.Path(lrbench_hpo.__file__).with_name('py.typed').exists()
print(lrbench_hpo.__file__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["wheel", "sdist"])
def test_an_installed_package_is_whole(built, form, tmp_path):
    _, wheel, sdist = built
    target = tmp_path / "site"
    pip_install(target, wheel if form == "wheel" else sdist)
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={"PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().startswith(str(target))


@pytest.mark.slow
def test_python_started_in_the_checkout_works_after_an_ordinary_install(built, tmp_path):
    checkout, wheel, _ = built
    target = tmp_path / "site"
    pip_install(target, wheel)
    code = (
        "import lrbench_hpo, pathlib\n"
        "lrbench_hpo.create_study('digits', 'lenet', max_iterations=300, database='sqlite://')\n"
        "print(pathlib.Path(lrbench_hpo.__file__).parent)"
    )
    # Without site, a developer's editable install cannot stand in for what is missing.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": os.pathsep.join([str(target), sysconfig.get_path("purelib")])},
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(checkout / "lrbench_hpo"), done.stderr


@pytest.mark.slow
def test_an_editable_install_is_whole(built, tmp_path):
    checkout, _, _ = built
    target = tmp_path / "site"
    pip_install(target, "--editable", checkout)
    # Only this site folder's .pth files are read, and its finder comes before what is installed.
    script = (
        f"import site, sys; site.addsitedir({str(target)!r})\n"
        "sys.meta_path.insert(0, sys.meta_path.pop())\n"
        f"sys.path.append({sysconfig.get_path('purelib')!r})\n" + CHECK
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().startswith(str(checkout))


@pytest.mark.slow
def test_the_wheel_holds_the_data_files_and_no_tests(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    assert "lrbench_hpo/search_spaces/mnist-lenet.yaml" in names
    assert "lrbench_hpo/database/paper_rows.csv" in names
    assert not any(name.startswith(("tests/", "benchmarks/", "search_spaces/")) for name in names)
