"""`Custom::Migration`: the function of the stack runs for real, and CloudFormation hears its answer."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from emulator.kinds import Json, Made, Place, Wanted, kind

HANDLER = "import json, sys; from tintype.lambdas.migrate import handler; handler(json.load(sys.stdin), None)"


class MigrationFailed(Exception):
    """The function said so, or said nothing."""


@kind("Custom::Migration")
def migration(place: Place, wanted: Wanted) -> Made:
    function = place.api("lambda").get_function_configuration(FunctionName=wanted["ServiceToken"])
    if function["Handler"] != "tintype.lambdas.migrate.handler":
        raise MigrationFailed(f"{function['Handler']} is not the migrator")
    environment = function["Environment"]["Variables"]
    named = urlsplit(environment["TINTYPE_DATABASE__URL"])
    given = os.environ["EMULATOR_DATABASE_URL"]
    if (named.username, named.path) != ("tintype_migrator", "/tintype"):
        raise MigrationFailed(f"{named.username} and {named.path} are not the migrator and its database")
    event = {
        "RequestType": "Create",
        "StackId": place.name,
        "RequestId": place.name,
        "LogicalResourceId": "Migrated",
        "ResourceProperties": wanted.every(),
    }
    heard = _run(
        event,
        environment
        | {
            "TINTYPE_DATABASE__URL": given,
            "AWS_ENDPOINT_URL": os.environ["EMULATOR_URL"],
            "AWS_DEFAULT_REGION": place.region,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "PATH": os.environ["PATH"],
        },
    )
    if heard.get("Status") != "SUCCESS":
        raise MigrationFailed(heard.get("Reason", "no answer"))
    return Made(heard["PhysicalResourceId"])


def _run(event: Json, environment: dict[str, str]) -> Json:
    heard: Json = {}

    class Door(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            heard.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # as the base class has it
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        event["ResponseURL"] = f"http://127.0.0.1:{server.server_port}/answer"
        done = subprocess.run(
            [sys.executable, "-c", HANDLER],
            input=json.dumps(event),
            env=environment,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        server.shutdown()
    if not heard:
        raise MigrationFailed(done.stdout + done.stderr)
    return heard
