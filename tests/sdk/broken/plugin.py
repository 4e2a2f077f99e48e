import os
import random
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random, randint

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
            case "now":
                datetime.now()
            case "today":
                time.strftime("%Y")
            case "chance":
                random.random()
            case "dice":
                randint(1, 6)
            case "unseeded":
                Random()
            case "entropy":
                os.urandom(4)
            case "file":
                open("/etc/passwd")
            case "path":
                Path("/etc/passwd").read_text()
            case "there":
                os.path.exists("/etc/passwd")
            case "input":
                input()
            case "import":
                import colorsys  # noqa: F401
            case "deep":
                self.__post_init__()
            case "print":
                print("\ud800")
            case "harmless":
                assert Random(5).random() == Random(5).random()
                assert datetime.fromtimestamp(0).year == 1970
                assert time.gmtime(0).tm_year == 1970
