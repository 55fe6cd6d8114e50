"""The types of Tintype's templates that moto lacks, or makes without their properties."""

import json
from typing import Any

from emulator.kinds import Json, Made, Place, Wanted, kind
from moto.secretsmanager.models import secretsmanager_backends


def _lowered(value: Any) -> Any:
    """Return names as the APIs of CodeBuild and CodePipeline have them: beginning with a small letter."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: _lowered(each) for key, each in value.items()}
    return [_lowered(each) for each in value] if isinstance(value, list) else value


def _numbers(wanted: Json, *names: str) -> Json:
    """A template's numbers may be strings; an API's may not."""
    return wanted | {name: int(wanted[name]) for name in names if name in wanted}


def _tags(wanted: Wanted) -> list[Json]:
    return wanted.get("Tags", [])


# --- storage ------------------------------------------------------------------------------------------------


@kind("AWS::S3::Bucket", "Arn", "DomainName", "RegionalDomainName")
def bucket(place: Place, wanted: Wanted) -> Made:
    s3, name = place.api("s3"), wanted.get("BucketName", place.name).lower()
    s3.create_bucket(Bucket=name, **_location(place.region))
    if versioning := wanted.get("VersioningConfiguration"):
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration=versioning)
    if blocked := wanted.get("PublicAccessBlockConfiguration"):
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=blocked)
    if ownership := wanted.get("OwnershipControls"):
        s3.put_bucket_ownership_controls(Bucket=name, OwnershipControls=ownership)
    if encryption := wanted.get("BucketEncryption"):
        rules = [
            {"ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"]}
            for rule in encryption["ServerSideEncryptionConfiguration"]
        ]
        s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})
    if lifecycle := wanted.get("LifecycleConfiguration"):
        rules = [_lifecycle_rule(rule) for rule in lifecycle["Rules"]]
        s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    if cors := wanted.get("CorsConfiguration"):
        rules = [_cors_rule(rule) for rule in cors["CorsRules"]]
        s3.put_bucket_cors(Bucket=name, CORSConfiguration={"CORSRules": rules})
    if notifications := wanted.get("NotificationConfiguration"):
        queues = [_queue_notification(one) for one in notifications["QueueConfigurations"]]
        s3.put_bucket_notification_configuration(
            Bucket=name, NotificationConfiguration={"QueueConfigurations": queues}
        )
    return Made(
        name,
        {
            "Arn": f"arn:aws:s3:::{name}",
            "DomainName": f"{name}.s3.amazonaws.com",
            "RegionalDomainName": f"{name}.s3.{place.region}.amazonaws.com",
        },
    )


def _location(region: str) -> Json:
    return {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}


def _lifecycle_rule(rule: Json) -> Json:
    made: Json = {"ID": rule["Id"], "Status": rule["Status"], "Filter": {"Prefix": rule.get("Prefix", "")}}
    expiration = {}
    if "ExpirationInDays" in rule:
        expiration["Days"] = int(rule["ExpirationInDays"])
    if "ExpiredObjectDeleteMarker" in rule:
        expiration["ExpiredObjectDeleteMarker"] = bool(rule["ExpiredObjectDeleteMarker"])
    if expiration:
        made["Expiration"] = expiration
    if noncurrent := rule.get("NoncurrentVersionExpiration"):
        made["NoncurrentVersionExpiration"] = _numbers(noncurrent, "NoncurrentDays")
    if unfinished := rule.get("AbortIncompleteMultipartUpload"):
        made["AbortIncompleteMultipartUpload"] = _numbers(unfinished, "DaysAfterInitiation")
    return made


def _cors_rule(rule: Json) -> Json:
    names = {"ExposedHeaders": "ExposeHeaders", "MaxAge": "MaxAgeSeconds"}
    return {names.get(name, name): value for name, value in rule.items()}


def _queue_notification(one: Json) -> Json:
    rules = [{"Name": rule["Name"], "Value": rule["Value"]} for rule in one["Filter"]["S3Key"]["Rules"]]
    return {
        "QueueArn": one["Queue"],
        "Events": [one["Event"]],
        "Filter": {"Key": {"FilterRules": rules}},
    }


@kind("AWS::S3::BucketPolicy")
def bucket_policy(place: Place, wanted: Wanted) -> Made:
    # moto knows no aws:SecureTransport, and would deny everything.
    document = dict(wanted["PolicyDocument"])
    document["Statement"] = [one for one in document["Statement"] if one["Effect"] != "Deny"]
    if document["Statement"]:
        place.api("s3").put_bucket_policy(Bucket=wanted["Bucket"], Policy=json.dumps(document))
    return Made(wanted["Bucket"])


# --- messaging ----------------------------------------------------------------------------------------------


@kind("AWS::SNS::Subscription")
def subscription(place: Place, wanted: Wanted) -> Made:
    attributes = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in wanted.every("TopicArn", "Protocol", "Endpoint").items()
    }
    made = place.api("sns").subscribe(
        TopicArn=wanted["TopicArn"],
        Protocol=wanted["Protocol"],
        Endpoint=wanted["Endpoint"],
        Attributes=attributes,
        ReturnSubscriptionArn=True,
    )
    return Made(made["SubscriptionArn"])


@kind("AWS::SNS::TopicPolicy")
def topic_policy(place: Place, wanted: Wanted) -> Made:
    for topic in wanted["Topics"]:
        place.api("sns").set_topic_attributes(
            TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(wanted["PolicyDocument"])
        )
    return Made(place.name)


@kind("AWS::SQS::QueuePolicy")
def queue_policy(place: Place, wanted: Wanted) -> Made:
    for queue in wanted["Queues"]:
        place.api("sqs").set_queue_attributes(
            QueueUrl=queue, Attributes={"Policy": json.dumps(wanted["PolicyDocument"])}
        )
    return Made(place.name)


# --- database -----------------------------------------------------------------------------------------------


@kind("AWS::RDS::DBParameterGroup", "DBParameterGroupName")
def parameter_group(place: Place, wanted: Wanted) -> Made:
    rds, name = place.api("rds"), place.name.lower()
    rds.create_db_parameter_group(
        DBParameterGroupName=name,
        DBParameterGroupFamily=wanted["Family"],
        Description=wanted["Description"],
        Tags=_tags(wanted),
    )
    parameters = [
        {"ParameterName": key, "ParameterValue": str(value), "ApplyMethod": "pending-reboot"}
        for key, value in wanted["Parameters"].items()
    ]
    rds.modify_db_parameter_group(DBParameterGroupName=name, Parameters=parameters)
    return Made(name, {"DBParameterGroupName": name})


@kind("AWS::RDS::DBSubnetGroup")
def subnet_group(place: Place, wanted: Wanted) -> Made:
    name = place.name.lower()
    place.api("rds").create_db_subnet_group(DBSubnetGroupName=name, **wanted.every())
    return Made(name)


@kind(
    "AWS::RDS::DBInstance",
    "Endpoint.Address",
    "Endpoint.Port",
    "DbiResourceId",
    "DBInstanceArn",
    "MasterUserSecret.SecretArn",
)
def database(place: Place, wanted: Wanted) -> Made:
    rds = place.api("rds")
    names = {"VPCSecurityGroups": "VpcSecurityGroupIds"}
    # What only CloudFormation decides about.
    asked = {names.get(name, name): value for name, value in wanted.every("DeleteAutomatedBackups").items()}
    asked = _numbers(asked, "AllocatedStorage", "MaxAllocatedStorage", "BackupRetentionPeriod")
    made = rds.create_db_instance(**asked)["DBInstance"]
    seen = rds.describe_db_instances(DBInstanceIdentifier=asked["DBInstanceIdentifier"])["DBInstances"][0]
    # moto writes down another name than the one that was asked for, and lets nobody change it.
    secret = seen["MasterUserSecret"]["SecretArn"]
    kept = secretsmanager_backends[place.account][place.region].secrets[secret]
    for version in kept.versions.values():
        version["secret_string"] = json.dumps(
            json.loads(version["secret_string"]) | {"username": asked["MasterUsername"]}
        )
    return Made(
        made["DBInstanceIdentifier"],
        {
            "Endpoint.Address": seen["Endpoint"]["Address"],
            "Endpoint.Port": str(seen["Endpoint"]["Port"]),
            "DbiResourceId": seen["DbiResourceId"],
            "DBInstanceArn": seen["DBInstanceArn"],
            "MasterUserSecret.SecretArn": seen["MasterUserSecret"]["SecretArn"],
        },
    )


# --- network ------------------------------------------------------------------------------------------------


def _rule(wanted: Wanted, other: str) -> list[Json]:
    rule: Json = {
        "IpProtocol": wanted["IpProtocol"],
        "FromPort": int(wanted["FromPort"]),
        "ToPort": int(wanted["ToPort"]),
    }
    description = wanted.get("Description", "")
    if other in wanted:
        rule["UserIdGroupPairs"] = [{"GroupId": wanted[other], "Description": description}]
    if "CidrIp" in wanted:
        rule["IpRanges"] = [{"CidrIp": wanted["CidrIp"], "Description": description}]
    return [rule]


@kind("AWS::EC2::SecurityGroupIngress", "Id")
def ingress(place: Place, wanted: Wanted) -> Made:
    answer = place.api("ec2").authorize_security_group_ingress(
        GroupId=wanted["GroupId"], IpPermissions=_rule(wanted, "SourceSecurityGroupId")
    )
    made = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    return Made(made, {"Id": made})


@kind("AWS::EC2::SecurityGroupEgress", "Id")
def egress(place: Place, wanted: Wanted) -> Made:
    answer = place.api("ec2").authorize_security_group_egress(
        GroupId=wanted["GroupId"], IpPermissions=_rule(wanted, "DestinationSecurityGroupId")
    )
    made = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    return Made(made, {"Id": made})


# --- service ------------------------------------------------------------------------------------------------


@kind(
    "AWS::ElasticLoadBalancingV2::LoadBalancer",
    *("LoadBalancerArn", "LoadBalancerFullName", "LoadBalancerName", "DNSName", "CanonicalHostedZoneID"),
    "SecurityGroups",
)
def balancer(place: Place, wanted: Wanted) -> Made:
    elb = place.api("elbv2")
    asked = wanted.every("LoadBalancerAttributes")
    made = elb.create_load_balancer(Name=place.name, **asked)["LoadBalancers"][0]
    arn = made["LoadBalancerArn"]
    elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=wanted["LoadBalancerAttributes"])
    return Made(
        arn,
        {
            "LoadBalancerArn": arn,
            "LoadBalancerFullName": arn.split("loadbalancer/")[1],
            "LoadBalancerName": made["LoadBalancerName"],
            "DNSName": made["DNSName"],
            "CanonicalHostedZoneID": made["CanonicalHostedZoneId"],
            "SecurityGroups": made["SecurityGroups"],
        },
    )


@kind(
    "AWS::ElasticLoadBalancingV2::TargetGroup", "TargetGroupFullName", "TargetGroupName", "LoadBalancerArns"
)
def target_group(place: Place, wanted: Wanted) -> Made:
    elb = place.api("elbv2")
    seconds = ("HealthCheckIntervalSeconds", "HealthCheckTimeoutSeconds")
    counts = ("HealthyThresholdCount", "UnhealthyThresholdCount", "Port")
    asked = _numbers(wanted.every("TargetGroupAttributes"), *seconds, *counts)
    made = elb.create_target_group(Name=place.name, **asked)["TargetGroups"][0]
    arn = made["TargetGroupArn"]
    elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=wanted["TargetGroupAttributes"])
    return Made(
        arn,
        {
            "TargetGroupFullName": arn.split(":")[-1],
            "TargetGroupName": made["TargetGroupName"],
            "LoadBalancerArns": [],
        },
    )


@kind("AWS::AutoScaling::ScalingPolicy", "Arn", "PolicyName")
def scaling_policy(place: Place, wanted: Wanted) -> Made:
    scaling, group = place.api("autoscaling"), wanted["AutoScalingGroupName"]
    scaling.put_scaling_policy(PolicyName=place.name, **wanted.every())
    # moto does not say it at once.
    (made,) = scaling.describe_policies(AutoScalingGroupName=group, PolicyNames=[place.name])[
        "ScalingPolicies"
    ]
    return Made(made["PolicyARN"], {"Arn": made["PolicyARN"], "PolicyName": place.name})


@kind("AWS::WAFv2::WebACL", "Arn", "Id")
def firewall(place: Place, wanted: Wanted) -> Made:
    rules = [dict(rule) for rule in wanted["Rules"]]
    for rule in rules:
        limit = rule["Statement"]["RateBasedStatement"]
        rule["Statement"] = {"RateBasedStatement": _numbers(limit, "Limit")}
        rule["Priority"] = int(rule["Priority"])
    made = place.api("wafv2").create_web_acl(Name=place.name, **wanted.every() | {"Rules": rules})["Summary"]
    return Made(f"{made['Name']}|{made['Id']}|REGIONAL", {"Arn": made["ARN"], "Id": made["Id"]})


@kind("AWS::WAFv2::WebACLAssociation")
def guarded(place: Place, wanted: Wanted) -> Made:
    place.api("wafv2").associate_web_acl(WebACLArn=wanted["WebACLArn"], ResourceArn=wanted["ResourceArn"])
    return Made(place.name)


# --- functions ----------------------------------------------------------------------------------------------


@kind("AWS::Lambda::Permission")
def permission(place: Place, wanted: Wanted) -> Made:
    function = wanted["FunctionName"].split(":")[-1]
    place.api("lambda").add_permission(
        FunctionName=function, StatementId=place.name[-64:], **wanted.every("FunctionName")
    )
    return Made(place.name)


@kind("AWS::Lambda::EventInvokeConfig")
def invoke_config(place: Place, wanted: Wanted) -> Made:
    place.api("lambda").put_function_event_invoke_config(
        FunctionName=wanted["FunctionName"],
        **_numbers(wanted.every("FunctionName", "Qualifier"), "MaximumRetryAttempts"),
    )
    return Made(place.name)


# --- alarms -------------------------------------------------------------------------------------------------


@kind("AWS::CloudWatch::Alarm", "Arn")
def alarm(place: Place, wanted: Wanted) -> Made:
    asked = _numbers(wanted.every(), "EvaluationPeriods", "DatapointsToAlarm", "Period")
    asked = {"AlarmName": place.name} | asked | {"Threshold": float(asked["Threshold"])}
    place.api("cloudwatch").put_metric_alarm(**asked)
    name = str(asked["AlarmName"])
    return Made(name, {"Arn": f"arn:aws:cloudwatch:{place.region}:{place.account}:alarm:{name}"})


# --- delivery -----------------------------------------------------------------------------------------------


@kind("AWS::CodeBuild::Project", "Arn")
def build_project(place: Place, wanted: Wanted) -> Made:
    asked = _lowered(wanted.every("Tags", "Source", "Artifacts"))
    source = _lowered(wanted["Source"])
    # The template writes `BuildSpec`, the API `buildspec`; moto asks for places that CodePipeline gives.
    source = {"buildspec": source.pop("buildSpec", ""), "location": "codepipeline", **source}
    asked["source"] = source
    asked["artifacts"] = {"location": "codepipeline", **_lowered(wanted["Artifacts"])}
    if not isinstance(asked.get("encryptionKey"), str):
        asked.pop("encryptionKey", None)
    name = asked.setdefault("name", place.name)
    place.api("codebuild").create_project(**asked)
    return Made(name, {"Arn": f"arn:aws:codebuild:{place.region}:{place.account}:project/{name}"})


@kind("AWS::CodePipeline::Pipeline", "Version")
def pipeline(place: Place, wanted: Wanted) -> Made:
    asked = _lowered(wanted.every("Tags", "RestartExecutionOnUpdate", "Stages", "ArtifactStores"))
    stages = _lowered(wanted["Stages"])
    for stage, written in zip(stages, wanted["Stages"], strict=True):
        for action, one in zip(stage["actions"], written["Actions"], strict=True):
            action["configuration"] = _strings(one.get("Configuration", {}))
        for condition, one in _conditions(stage, written):
            condition["configuration"] = _strings(one["Configuration"])
    stores = {one["Region"]: _lowered(one["ArtifactStore"]) for one in wanted.get("ArtifactStores", [])}
    if stores:
        asked["artifactStores"] = stores
    place.api("codepipeline").create_pipeline(pipeline={"version": 1, **asked, "stages": stages})
    return Made(asked["name"], {"Version": 1})


def _conditions(stage: Json, written: Json) -> list[tuple[Json, Json]]:
    made = [rule for one in stage.get("onSuccess", {}).get("conditions", []) for rule in one["rules"]]
    said = [rule for one in written.get("OnSuccess", {}).get("Conditions", []) for rule in one["Rules"]]
    return [*zip(made, said, strict=True)]


def _strings(configuration: Json) -> dict[str, str]:
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in configuration.items()
    }
