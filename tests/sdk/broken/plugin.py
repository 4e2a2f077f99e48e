import os
import random
import time
from dataclasses import dataclass

from aligner_sdk import Filter


@dataclass
class Broken(Filter, name="broken", version="0.1.0"):
    """Does what a plugin cannot do. For tests."""

    what: str = ""

    def __post_init__(self) -> None:
        match self.what:
            case "fault":
                raise KeyError("x")
            case "clock":
                time.time()
            case "chance":
                random.random()
            case "entropy":
                os.urandom(4)
            case "file":
                open("/etc/passwd")
            case "import":
                import colorsys  # noqa: F401
            case "deep":
                self.__post_init__()
            case "print":
                print("\ud800")
