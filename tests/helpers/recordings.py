"""The one place where tests record a node that does little: it never starts, and takes events."""

import pathlib
import random

from meshd.recording import Recording
from protocol.assembly import NodeConfig
from protocol.config import SECOND
from protocol.crypto import SodiumCrypto
from protocol.events import Delayed
from protocol.node import Node
from tests.helpers.nodes import Authorities, seed_of


def recorded_node(recording: Recording, name: str = "n") -> Node:
    """A node whose beginning is in the recording; its events are, by `recording.handle`."""
    config = NodeConfig(
        name=name, software="s", root=Authorities().root, boot=1, boot_secret=seed_of("secret")
    )
    crypto = recording.begin(config, SodiumCrypto(seed_of("key")), 5)
    return Node(config, crypto, random.Random(5))


def make_trace(path: pathlib.Path) -> pathlib.Path:
    """A recording of node anna's two events, two seconds apart."""
    recording = Recording(path)
    node = recorded_node(recording, "anna")
    for now in (SECOND, 3 * SECOND):
        recording.handle(node, Delayed(7), now)
    recording.close()
    return path
