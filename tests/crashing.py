"""`tintype serve` that ends itself with SIGKILL at a named checkpoint: python crashing.py NAME[:TIME] serve …

TIME is the number of the pass that it does not survive; without it, the first.
"""

import itertools
import os
import signal
import sys

from tintype.cli import main
from tintype.model.checkpoint import arm

if __name__ == "__main__":
    checkpoint, _, number = sys.argv.pop(1).partition(":")
    passes = itertools.count(1)

    def crash() -> None:
        if next(passes) >= int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    arm(checkpoint, crash)
    main()
