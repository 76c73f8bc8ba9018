"""Real Ray instances of the tests' own: nobody else's cluster is joined, changed or stopped."""

import atexit
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator

import pytest

# Set before anything loads Ray, which reads them once. Its sessions, and the address that a plain
# `ray.init()` would join, go to a folder of our own (short: sockets lie in it, and their paths may
# have 107 characters), and so does nothing into the person's ~/.ray/auth_token.
_FOLDER = tempfile.mkdtemp(prefix="lrbench")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
os.environ["RAY_TMPDIR"] = _FOLDER
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

NODE_MEMORY = 200 * 1024**2  # bytes of a node's object store: digits and MNIST fit


def started_node(cluster: Cluster, cpus: int) -> None:
    """Add a node to a cluster."""
    cluster.add_node(num_cpus=cpus, object_store_memory=NODE_MEMORY, include_dashboard=False)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection of this process to a cluster; what runs through it ends with it."""
    ray.shutdown()
    ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray of one node with four CPUs, which no test stops or changes."""
    node = Cluster()
    try:
        started_node(node, 4)
        yield node.address
    finally:
        ray.shutdown()
        node.shutdown()


@pytest.fixture(scope="module")
def local_ray(ray_address: str) -> Iterator[None]:
    """A connection to the Ray of one node with four CPUs, for all tests of a module."""
    with connected(ray_address):
        yield


@pytest.fixture(scope="session")
def _three_nodes() -> Iterator[Cluster]:
    nodes = Cluster()
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture
def cluster(_three_nodes: Cluster) -> Iterator[Cluster]:
    """Three nodes with a CPU each; the test is connected to the first, `cluster.head_node`.

    A test may remove other nodes, and add some: the next test has three nodes again.
    """
    for _ in range(3 - len(_three_nodes.list_all_nodes())):
        started_node(_three_nodes, 1)
    before = set(_three_nodes.list_all_nodes())
    with connected(_three_nodes.address):
        _three_nodes.wait_for_nodes()
        yield _three_nodes
    for node in set(_three_nodes.list_all_nodes()) - before:
        _three_nodes.remove_node(node)
