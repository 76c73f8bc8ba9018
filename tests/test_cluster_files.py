"""The files of examples/cluster are what Ray's own checks accept, and what docs/cluster.md says."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "cluster"
CLOUD = (FOLDER / "cluster.yaml").read_text(encoding="utf-8")
LOCAL = (FOLDER / "on-premise.yaml").read_text(encoding="utf-8")
PAGE = (FOLDER.parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")


def of_provider(provider):
    """The file as its own first lines tell a person to make it."""
    if provider == "local":
        return LOCAL
    if provider == "aws":
        return CLOUD
    [command] = re.findall(r"^#\s+sed (.*) cluster.yaml > my-cluster.yaml$", CLOUD, re.MULTILINE)
    scripts = [part.replace("gcp", provider) for part in re.findall(r"-e '(.*?)'", command)]
    options = [word for script in scripts for word in ("-e", script)]
    done = subprocess.run(
        ["sed", *options, FOLDER / "cluster.yaml"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(params=["aws", "gcp", "azure", "local"])
def config(request):
    config = yaml.safe_load(of_provider(request.param))
    assert config["provider"]["type"] == request.param
    return config


def test_ray_accepts_it(config):
    given = {key: config.get(key) for key in ("setup_commands", "file_mounts", "cluster_name")}
    whole = prepare_config(config)
    validate_config(whole)
    assert whole["setup_commands"] == given["setup_commands"]
    assert whole["max_workers"] >= 2
    assert {key: whole[key] for key in ("file_mounts", "cluster_name")}.items() <= given.items()


def test_every_node_gets_the_token_and_asks_for_it(config):
    home = f"/home/{config['auth']['ssh_user']}"
    assert config["file_mounts"][f"{home}/.ray/auth_token"] == "~/.ray/auth_token"
    for role in ("head", "worker"):
        start = config[f"{role}_start_ray_commands"][-1]
        assert re.search(r"RAY_AUTH_MODE=token\s+ray start", start)


def test_workers_have_gpus_and_the_head_node_runs_no_trials(config):
    if config["provider"]["type"] == "local":
        return
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    text = yaml.safe_dump(types["worker"])
    assert re.search(r"GPU: 1|g5\.xlarge", text)


def test_only_one_clouds_client_is_installed(config):
    clients = {"aws": "boto3", "gcp": "google-api", "azure": "azure-identity"}
    setup = " ".join(config.get("head_setup_commands", []))
    for provider, client in clients.items():
        assert (client in setup) == (provider == config["provider"]["type"])


def test_no_secret_is_in_the_files_and_none_is_sent_with_a_job():
    for path in FOLDER.iterdir():
        if path.is_file():
            assert not re.search(r"postgresql://\w+:\w", path.read_text(encoding="utf-8")), path
    script = (FOLDER / "submit.sh").read_text(encoding="utf-8")
    sent = "\n".join(line for line in script.splitlines() if not line.startswith("#"))
    assert "LRBENCH_DATABASE_URL" not in sent
    assert "runtime-env" not in sent


def test_the_script_gives_the_search_its_options_and_secrets(tmp_path):
    """`ray` is replaced by a command that runs what it would have run on the head node."""
    commands = {
        "ray": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
        "python": 'echo "$LRBENCH_DATABASE_URL" "$RAY_AUTH_MODE" "$@"',
    }
    for name, command in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".lrbench.env").write_text(
        "LRBENCH_DATABASE_URL='postgresql://me@host/lr?a=b&c=d'\n"
    )
    done = subprocess.run(
        [FOLDER / "submit.sh", "--name", "two words", "--trials", "3"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = "postgresql://me@host/lr?a=b&c=d token search.py --name two words --trials 3\n"
    assert done.stdout == expected


@pytest.mark.slow
def test_the_page_names_every_file_and_every_option_it_names_exists():
    assert all(path.name in PAGE for path in FOLDER.iterdir() if path.is_file())
    shown = subprocess.run(
        [sys.executable, "-P", FOLDER / "search.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = re.findall(r"(?:submit\.sh|search\.py) (--.*)", PAGE)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(commands)))
    assert len(named) >= 5
    assert named <= set(re.findall(r"--[a-z][a-z-]+", shown))
