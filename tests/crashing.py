"""`tintype serve` that ends itself with SIGKILL at a named checkpoint: python crashing.py NAME serve …"""

import os
import signal
import sys

from tintype.cli import main
from tintype.model.checkpoint import arm

if __name__ == "__main__":
    checkpoint = sys.argv.pop(1)
    arm(checkpoint, lambda: os.kill(os.getpid(), signal.SIGKILL))
    main()
