"""Real Ray instances of the tests' own: nobody else's cluster is joined, changed or stopped."""

import atexit
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


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of one node with four CPUs, for all tests of a module."""
    ray.shutdown()
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes with a CPU each; the test is connected to the first, `cluster.head_node`."""
    ray.shutdown()
    nodes = Cluster()
    try:
        for _ in range(3):
            nodes.add_node(
                num_cpus=1,
                object_store_memory=NODE_MEMORY,
                include_dashboard=False,
            )
        ray.init(address=nodes.address, log_to_driver=False)
        nodes.wait_for_nodes()
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
