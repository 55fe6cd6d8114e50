"""The secret that RDS keeps for its master user, who is logged in as by migrations alone."""

import json

from botocore.config import Config
from psycopg import conninfo

from tintype.aws import aws_session


def url_with_secret(url: str, secret_arn: str) -> str:
    """Return the URL with the master user's name and password, as they are now.

    RDS changes the password every week (Amazon RDS User Guide, "Password management with Amazon RDS and
    AWS Secrets Manager"). Raises botocore's errors.
    """
    client = aws_session().client(
        "secretsmanager",
        config=Config(
            connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 3, "mode": "standard"}
        ),
    )
    answer = client.get_secret_value(SecretId=secret_arn)
    secret = json.loads(answer["SecretString"])
    return conninfo.make_conninfo(url, user=secret["username"], password=secret["password"])
