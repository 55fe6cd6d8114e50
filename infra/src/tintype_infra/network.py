"""Network: two availability zones, a public and a private subnet in each, and the ways out."""

from aws_cdk import Acknowledgment, Stack, Validations
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct

from tintype_infra.stages import Stage

# Without NAT every AWS service that the instances and the functions call needs a door of its own.
SERVICES = {
    "Sns": ec2.InterfaceVpcEndpointAwsService.SNS,
    "Sqs": ec2.InterfaceVpcEndpointAwsService.SQS,
    "Secrets": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Lambda": ec2.InterfaceVpcEndpointAwsService.LAMBDA_,
    "CloudFormation": ec2.InterfaceVpcEndpointAwsService.CLOUDFORMATION,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Monitoring": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_MONITORING,
    "Ssm": ec2.InterfaceVpcEndpointAwsService.SSM,
    "SsmMessages": ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES,
}


class Network(Construct):
    """The VPC. Only the balancer and the NAT gateway stand in public subnets."""

    def __init__(self, scope: Construct, stage: Stage) -> None:
        super().__init__(scope, "Network")
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(stage.network),
            availability_zones=stage.both_zones,
            nat_gateways={"nat": 1, "nat-per-zone": 2, "endpoints": 0}[stage.egress],
            subnet_configuration=[
                ec2.SubnetConfiguration(name="Public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=24),
                ec2.SubnetConfiguration(name="Private", subnet_type=_private(stage), cidr_mask=22),
            ],
            # The default group would let its members talk to each other; nothing of ours is in it.
            restrict_default_security_group=False,
            # Images do not pass through NAT: the gateway endpoint is free.
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)
            },
        )
        Validations.of(self.vpc).acknowledge(
            Acknowledgment(
                id="CloudFormation-Validate::W3010",
                reason="Zones by name: a lookup takes credentials, and templates are the same everywhere",
            )
        )
        self.private = ec2.SubnetSelection(subnet_group_name="Private")
        self.public = ec2.SubnetSelection(subnet_group_name="Public")
        self.vpc.add_flow_log(
            "Refused",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(
                logs.LogGroup(self, "RefusedTraffic", retention=logs.RetentionDays.ONE_MONTH)
            ),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )
        if stage.egress == "endpoints":
            for name, service in SERVICES.items():
                self.vpc.add_interface_endpoint(name, service=service, subnets=self.private)

    def group(self, name: str, description: str) -> ec2.SecurityGroup:
        """Return a new security group that lets nothing in, and out only what is allowed later."""
        return ec2.SecurityGroup(self, name, vpc=self.vpc, description=description, allow_all_outbound=False)


def let_out(group: ec2.ISecurityGroup) -> None:
    """Let a group's members reach AWS's services and webhooks: by TLS, and by nothing else."""
    group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "TLS to AWS and to webhooks")


def _private(stage: Stage) -> ec2.SubnetType:
    return (
        ec2.SubnetType.PRIVATE_ISOLATED if stage.egress == "endpoints" else ec2.SubnetType.PRIVATE_WITH_EGRESS
    )


def region_of(construct: Construct) -> str:
    """Return the region that a construct is deployed to."""
    return Stack.of(construct).region
