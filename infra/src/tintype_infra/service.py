"""Service: instances behind a balancer, replaced one at a time by every release."""

import json
from importlib import resources
from pathlib import Path

from aws_cdk import CfnOutput, Duration, Fn, Stack, Tags
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as assets
from aws_cdk import aws_wafv2 as waf
from constructs import Construct, IDependable

from tintype_infra.database import SERVICE, Database
from tintype_infra.functions import (
    Functions,
    grant_mail,
    grant_publishing,
    grant_serving,
    grant_subscribing,
    mail_settings,
)
from tintype_infra.messaging import Messaging
from tintype_infra.network import Network, let_out
from tintype_infra.stages import Stage
from tintype_infra.storage import Storage

PORT = 8000
AUTHORITIES = "/opt/tintype/current/site/rds-authorities.pem"
DEBIAN = "/aws/service/debian/release/13/latest/amd64"
"""Where Debian publishes the id of its newest image (wiki.debian.org, Cloud/AmazonEC2Image/Trixie)."""

IDLE_SECONDS = 60
"""The balancer's. The server keeps idle connections longer, or the balancer would send into closed ones."""
CHECK_SECONDS, CHECK_TIMEOUT_SECONDS, CHECKS_FAILED = 10, 5, 3
"""How the balancer finds out that an instance is on its way out, or in trouble."""
LINGER_SECONDS = CHECK_SECONDS * CHECKS_FAILED + CHECK_TIMEOUT_SECONDS
"""How long a server that is told to end goes on serving: the balancer knows by then."""
DRAIN_SECONDS = 120
"""What a request in flight gets to end, before the balancer lets go of an instance and systemd stops it."""
BOOT_MINUTES = 10


class Service(Construct):
    """The Auto Scaling Group, its balancer, and what an instance is made of."""

    def __init__(
        self,
        scope: Construct,
        stage: Stage,
        *,
        bundle: Path,
        release: str,
        network: Network,
        storage: Storage,
        database: Database,
        messaging: Messaging,
        functions: Functions,
        after: IDependable,
    ) -> None:
        super().__init__(scope, "Service")
        self._stage = stage
        self.balancer_group = network.group("BalancerGroup", "Balancer")
        self.group = network.group("InstancesGroup", "Instances")
        let_out(self.group)
        database.let_in(self.group, "Instances")
        self.log = logs.LogGroup(self, "Log", retention=logs.RetentionDays.THREE_MONTHS)
        self.bundle = assets.Asset(self, "Bundle", path=str(bundle))

        self.role = self._role()
        self._grant(storage, database, messaging, functions)
        self.fleet = self._fleet(network)
        self.fleet.node.add_dependency(after)
        self.balancer = self._balancer(network, storage.logs)
        self.target = self._target(network)
        self._listen()
        self.group.add_ingress_rule(self.balancer_group, ec2.Port.tcp(PORT), "From the balancer")
        self.balancer_group.add_egress_rule(self.group, ec2.Port.tcp(PORT), "To the instances")
        self._scale()
        if stage.requests_per_address is not None:
            self._firewall(stage.requests_per_address)
        self.url = stage.public_url or (
            f"{'http' if stage.plain_http else 'https'}://{self.balancer.load_balancer_dns_name}"
        )
        functions.reached_at(self.url)
        self.fleet.add_user_data(
            _first_commands(
                release=release,
                bundle=self.bundle,
                log=self.log.log_group_name,
                settings=self._settings(storage, database, messaging, functions, network),
                stack=Stack.of(self),
                resource=_logical_id(self.fleet),
            )
        )
        self.output = CfnOutput(self, "Url", value=self.url, description="Where the service answers")

    def _role(self) -> iam.Role:
        return iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            description="Tintype's instances",
        )

    def _grant(
        self, storage: Storage, database: Database, messaging: Messaging, functions: Functions
    ) -> None:
        """Give the instances what requests need."""
        grant_serving(self.role, storage.images)
        grant_publishing(self.role, messaging.events)
        grant_subscribing(self.role, messaging.events)
        grant_mail(self.role, self._stage)
        database.grant_login(self.role, SERVICE)
        self.log.grant_write(self.role)
        allow = self.role.add_to_policy
        # CDK's own grants would add every version of the function, and every other release.
        allow(
            iam.PolicyStatement(
                sid="Check",
                actions=["lambda:InvokeFunction"],
                resources=[functions.consistency.function.function_arn],
            )
        )
        allow(
            iam.PolicyStatement(
                sid="Release",
                actions=["s3:GetObject"],
                resources=[self.bundle.bucket.arn_for_objects(self.bundle.s3_object_key)],
            )
        )
        # No SSH: operators come in through Session Manager. AWS's managed policy for that would also read
        # every parameter of the account (AWS Systems Manager User Guide, "Create a custom IAM role for
        # Session Manager").
        allow(
            iam.PolicyStatement(
                sid="SessionManager",
                actions=[
                    "ssm:UpdateInstanceInformation",
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ],
                resources=["*"],
            )
        )

    def _fleet(self, network: Network) -> autoscaling.AutoScalingGroup:
        stage = self._stage
        template = ec2.LaunchTemplate(
            self,
            "Template",
            instance_type=ec2.InstanceType(stage.instance_type),
            machine_image=ec2.MachineImage.from_ssm_parameter(DEBIAN, os=ec2.OperatingSystemType.LINUX),
            security_group=self.group,
            role=self.role,
            require_imdsv2=True,
            http_put_response_hop_limit=1,
            detailed_monitoring=True,
            user_data=ec2.UserData.for_linux(),
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(
                        16,
                        encrypted=True,
                        volume_type=ec2.EbsDeviceVolumeType.GP3,
                        delete_on_termination=True,
                    ),
                )
            ],
        )
        fleet = autoscaling.AutoScalingGroup(
            self,
            "Instances",
            vpc=network.vpc,
            vpc_subnets=network.private,
            launch_template=template,
            min_capacity=stage.instances,
            max_capacity=stage.instances_at_most,
            # Not the balancer's check: `/readyz` fails on all instances at once while the database fails
            # over, and the group would throw them all away. systemd restarts what has ended, and an alarm
            # tells of what stays unhealthy.
            health_checks=autoscaling.HealthChecks.ec2(grace_period=Duration.minutes(BOOT_MINUTES)),
            # An instance counts when it has really served `/readyz`; until then the old ones stay.
            signals=autoscaling.Signals.wait_for_count(
                stage.instances, timeout=Duration.minutes(BOOT_MINUTES)
            ),
            update_policy=autoscaling.UpdatePolicy.rolling_update(
                max_batch_size=1,
                min_instances_in_service=stage.instances,
                wait_on_resource_signals=True,
                pause_time=Duration.minutes(BOOT_MINUTES),
                suspend_processes=[
                    autoscaling.ScalingProcess.AZ_REBALANCE,
                    autoscaling.ScalingProcess.REPLACE_UNHEALTHY,
                    autoscaling.ScalingProcess.ALARM_NOTIFICATION,
                    autoscaling.ScalingProcess.SCHEDULED_ACTIONS,
                ],
            ),
            group_metrics=[autoscaling.GroupMetrics.all()],
            termination_policies=[autoscaling.TerminationPolicy.OLDEST_LAUNCH_TEMPLATE],
        )
        Tags.of(fleet).add("Name", f"tintype-{stage.name}")
        return fleet

    def _balancer(self, network: Network, access_logs: s3.IBucket) -> elb.ApplicationLoadBalancer:
        balancer = elb.ApplicationLoadBalancer(
            self,
            "Balancer",
            vpc=network.vpc,
            vpc_subnets=network.public,
            internet_facing=True,
            security_group=self.balancer_group,
            idle_timeout=Duration.seconds(IDLE_SECONDS),
            drop_invalid_header_fields=True,
            deletion_protection=self._stage.keep,
        )
        balancer.log_access_logs(access_logs, prefix="balancer")
        return balancer

    def _target(self, network: Network) -> elb.ApplicationTargetGroup:
        return elb.ApplicationTargetGroup(
            self,
            "Target",
            vpc=network.vpc,
            port=PORT,
            protocol=elb.ApplicationProtocol.HTTP,
            targets=[self.fleet],
            load_balancing_algorithm_type=elb.TargetGroupLoadBalancingAlgorithmType.LEAST_OUTSTANDING_REQUESTS,
            deregistration_delay=Duration.seconds(DRAIN_SECONDS),
            health_check=elb.HealthCheck(
                path="/readyz",
                interval=Duration.seconds(CHECK_SECONDS),
                timeout=Duration.seconds(CHECK_TIMEOUT_SECONDS),
                healthy_threshold_count=2,
                unhealthy_threshold_count=CHECKS_FAILED,
                healthy_http_codes="200",
            ),
        )

    def _listen(self) -> None:
        anywhere = ec2.Peer.any_ipv4()
        if self._stage.certificate_arn is None:
            self.balancer_group.add_ingress_rule(anywhere, ec2.Port.tcp(80), "HTTP from everywhere")
            self.balancer.add_listener("Http", port=80, open=False, default_target_groups=[self.target])
            return
        for port in (80, 443):
            self.balancer_group.add_ingress_rule(anywhere, ec2.Port.tcp(port), f"Port {port} from everywhere")
        self.balancer.add_listener(
            "Https",
            port=443,
            open=False,
            certificates=[
                acm.Certificate.from_certificate_arn(self, "Certificate", self._stage.certificate_arn)
            ],
            ssl_policy=elb.SslPolicy.TLS13_RES,
            default_target_groups=[self.target],
        )
        self.balancer.add_listener(
            "Http",
            port=80,
            open=False,
            default_action=elb.ListenerAction.redirect(port="443", protocol="HTTPS", permanent=True),
        )

    def _scale(self) -> None:
        self.fleet.scale_on_cpu_utilization("Cpu", target_utilization_percent=50)
        self.fleet.scale_on_request_count(
            "Requests", target_requests_per_minute=self._stage.requests_per_instance
        )

    def _firewall(self, requests: int) -> None:
        def seen(name: str) -> waf.CfnWebACL.VisibilityConfigProperty:
            return waf.CfnWebACL.VisibilityConfigProperty(
                cloud_watch_metrics_enabled=True, metric_name=name, sampled_requests_enabled=False
            )

        acl = waf.CfnWebACL(
            self,
            "Firewall",
            scope="REGIONAL",
            default_action=waf.CfnWebACL.DefaultActionProperty(allow={}),
            visibility_config=seen("tintype"),
            rules=[
                waf.CfnWebACL.RuleProperty(
                    name="requests-per-address",
                    priority=1,
                    action=waf.CfnWebACL.RuleActionProperty(block={}),
                    statement=waf.CfnWebACL.StatementProperty(
                        rate_based_statement=waf.CfnWebACL.RateBasedStatementProperty(
                            aggregate_key_type="IP", limit=requests
                        )
                    ),
                    visibility_config=seen("tintype-requests-per-address"),
                )
            ],
        )
        waf.CfnWebACLAssociation(
            self, "Guarded", resource_arn=self.balancer.load_balancer_arn, web_acl_arn=acl.attr_arn
        )

    def _settings(
        self,
        storage: Storage,
        database: Database,
        messaging: Messaging,
        functions: Functions,
        network: Network,
    ) -> dict[str, str]:
        """Return the service's environment. It holds no secret: instances have a role."""
        stage = self._stage
        settings = {
            "TINTYPE_HOST": "0.0.0.0",  # noqa: S104  (the group lets in the balancer alone)
            "TINTYPE_PORT": str(PORT),
            "TINTYPE_DATA_DIR": "/var/lib/tintype",
            "TINTYPE_PUBLIC_URL": self.url,
            "TINTYPE_OBJECTS__URL": f"s3://{storage.images.bucket_name}",
            "TINTYPE_OBJECTS__REGION": stage.region,
            "TINTYPE_DATABASE__URL": database.url(SERVICE, AUTHORITIES),
            "TINTYPE_DATABASE__IAM_REGION": stage.region,
            "TINTYPE_EVENTS__TOPIC_ARN": messaging.events.topic_arn,
            "TINTYPE_IDENTITY__MODE": "keys",
            "TINTYPE_CONSISTENCY__FUNCTION": functions.consistency.function.function_name,
            "TINTYPE_TRUSTED_PROXIES": json.dumps([network.vpc.vpc_cidr_block]),
            "TINTYPE_LINGER_SECONDS": str(LINGER_SECONDS),
            "TINTYPE_DRAIN_SECONDS": str(DRAIN_SECONDS - 10),
            "TINTYPE_LOG__FORMAT": "json",
        }
        if stage.cors_origins:
            settings["TINTYPE_CORS_ORIGINS"] = json.dumps(stage.cors_origins)
        return settings | mail_settings(stage) | stage.settings


def _first_commands(
    *, release: str, bundle: assets.Asset, log: str, settings: dict[str, str], stack: Stack, resource: str
) -> str:
    """Return what a new instance runs: its settings, then `bootstrap.sh`, which is tested by itself."""
    instance = {
        "RELEASE": release,
        "REGION": stack.region,
        "BUNDLE_BUCKET": bundle.s3_bucket_name,
        "BUNDLE_KEY": bundle.s3_object_key,
        "LOG_GROUP": log,
        "STACK": stack.stack_name,
        "RESOURCE": resource,
    }
    script = resources.files("tintype_infra").joinpath("instance/bootstrap.sh").read_text(encoding="utf-8")
    return Fn.join(
        "\n",
        [
            "install -d -m 0755 /etc/tintype",
            "cat > /etc/tintype/environment <<'SETTINGS'",
            *(f"{name}={value}" for name, value in sorted(settings.items())),
            "SETTINGS",
            *(f"export {name}='{value}'" for name, value in instance.items()),
            script.removeprefix("#!/usr/bin/env bash\n"),
        ],
    )


def _logical_id(fleet: autoscaling.AutoScalingGroup) -> str:
    resource = fleet.node.default_child
    assert isinstance(resource, autoscaling.CfnAutoScalingGroup)  # noqa: S101  (for the type checker)
    return Stack.of(fleet).resolve(resource.logical_id)
