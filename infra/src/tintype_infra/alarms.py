"""Alarms: what an operator must know, one list; docs/operations.md says what to do for each."""

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_elasticloadbalancingv2 as elb
from constructs import Construct

from tintype_infra.database import Database
from tintype_infra.functions import Functions
from tintype_infra.messaging import Messaging, oldest_message
from tintype_infra.service import Service
from tintype_infra.stages import Stage

MINUTE = Duration.minutes(1)
FIVE_MINUTES = Duration.minutes(5)
OWN = "Tintype"
"""The namespace of the metrics that instances and functions send themselves."""


RELEASE_ALARMS = ("ServerErrors", "BalancerErrors", "UnhealthyInstances")
"""What makes the pipeline take a release back."""


def alarm_name(stage: str, name: str) -> str:
    """Return what an alarm is called in the account."""
    return f"tintype-{stage}-{name}"


class Alarms(Construct):
    """Alarms and a dashboard that shows the same metrics."""

    def __init__(
        self,
        scope: Construct,
        stage: Stage,
        *,
        service: Service,
        functions: Functions,
        database: Database,
        messaging: Messaging,
    ) -> None:
        super().__init__(scope, "Alarms")
        self._stage = stage
        self._action = actions.SnsAction(messaging.alarms)
        self.made: dict[str, cloudwatch.Alarm] = {}
        self._of_the_service(service)
        self._of_the_queues(messaging)
        self._of_the_functions(functions)
        self._of_the_database(database)
        self._of_the_promise(functions)
        self._dashboard()

    def _of_the_service(self, service: Service) -> None:
        balancer, target = service.balancer.metrics, service.target.metrics
        answered = target.http_code_target(
            elb.HttpCodeTarget.TARGET_5XX_COUNT, period=MINUTE, statistic="Sum"
        )
        self._alarm("ServerErrors", answered, above=5, minutes=5, of=3, missing_is_good=True)
        refused = balancer.http_code_elb(elb.HttpCodeElb.ELB_5XX_COUNT, period=MINUTE, statistic="Sum")
        self._alarm("BalancerErrors", refused, above=5, minutes=5, of=3, missing_is_good=True)
        slow = target.target_response_time(period=MINUTE, statistic="p99")
        self._alarm("SlowAnswers", slow, above=10, minutes=10, of=8, missing_is_good=True)
        unhealthy = target.unhealthy_host_count(period=MINUTE, statistic="Maximum")
        self._alarm("UnhealthyInstances", unhealthy, above=0, minutes=15, of=15, missing_is_good=False)
        if self._stage.instance_type.startswith("t"):
            balance = cloudwatch.Metric(
                namespace="AWS/EC2",
                metric_name="CPUCreditBalance",
                dimensions_map={"AutoScalingGroupName": service.fleet.auto_scaling_group_name},
                period=FIVE_MINUTES,
                statistic="Minimum",
            )
            self._alarm("InstanceCredits", balance, below=30, minutes=15, of=15)
        # What EC2 cannot see, the program that ships the log says (instance/ship_logs.py).
        for name, of_what in (("InstanceMemory", "InstanceMemoryUsed"), ("InstanceDisk", "InstanceDiskUsed")):
            used = cloudwatch.Metric(
                namespace=OWN,
                metric_name=of_what,
                dimensions_map={"Stack": Stack.of(service).stack_name},
                period=FIVE_MINUTES,
                statistic="Maximum",
            )
            self._alarm(name, used, above=85, minutes=15, of=15)

    def _of_the_queues(self, messaging: Messaging) -> None:
        for name, work in messaging.queues.items():
            dead = work.dead.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum")
            self._alarm(f"Dead{name.title()}", dead, above=0, minutes=1, of=1, missing_is_good=True)
            self._alarm(f"Late{name.title()}", oldest_message(work.queue), above=900, minutes=5, of=5)
        forgotten = messaging.failed.metric_approximate_number_of_messages_visible(
            period=MINUTE, statistic="Maximum"
        )
        self._alarm("DeadInvocations", forgotten, above=0, minutes=1, of=1, missing_is_good=True)

    def _of_the_functions(self, functions: Functions) -> None:
        for name, one in functions.all.items():
            failed = one.function.metric_errors(period=FIVE_MINUTES, statistic="Sum")
            self._alarm(f"Failed{name.title()}", failed, above=2, minutes=15, of=10, missing_is_good=True)
            throttled = one.function.metric_throttles(period=FIVE_MINUTES, statistic="Sum")
            self._alarm(
                f"Throttled{name.title()}", throttled, above=50, minutes=15, of=15, missing_is_good=True
            )

    def _of_the_database(self, database: Database) -> None:
        instance = database.instance
        room = instance.metric_free_storage_space(period=FIVE_MINUTES, statistic="Minimum")
        self._alarm("DatabaseRoom", room, below=self._stage.database_gib * 1024**3 // 10, minutes=10, of=10)
        connections = instance.metric_database_connections(period=MINUTE, statistic="Maximum")
        self._alarm("DatabaseConnections", connections, above=_connections(self._stage), minutes=5, of=5)
        busy = instance.metric_cpu_utilization(period=FIVE_MINUTES, statistic="Average")
        self._alarm("DatabaseBusy", busy, above=85, minutes=30, of=30)
        if self._stage.database_class.startswith("t"):
            balance = instance.metric("CPUCreditBalance", period=FIVE_MINUTES, statistic="Minimum")
            self._alarm("DatabaseCredits", balance, below=30, minutes=15, of=15)

    def _of_the_promise(self, functions: Functions) -> None:
        """Watch what only Tintype itself can know, and that it goes on saying it.

        The function `consistency` says it every five minutes; missing is what a stopped one looks like.
        """

        def own(name: str) -> cloudwatch.Metric:
            return cloudwatch.Metric(
                namespace=OWN,
                metric_name=name,
                dimensions_map={"FunctionName": functions.consistency.function.function_name},
                period=FIVE_MINUTES,
                statistic="Maximum",
            )

        waiting = own("OldestUnpublishedEventSeconds")
        self._alarm("EventsUnpublished", waiting, above=300, minutes=10, of=10)
        self._alarm("DriftFound", own("ConsistencyDrift"), above=0, minutes=5, of=5, missing_is_good=True)
        age = own("LastCleanCheckSeconds")
        self._alarm("NoCleanCheck", age, above=2 * 86_400, minutes=30, of=30, missing_is_good=False)
        held = own("QuarantineBytes")
        self._alarm("QuarantineGrows", held, above=1024**3, minutes=30, of=30, missing_is_good=True)
        unread = own("OldestUnverifiedSeconds")
        self._alarm("LongUnverified", unread, above=365 * 86_400, minutes=30, of=30, missing_is_good=True)

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        *,
        minutes: int,
        of: int,
        above: float | None = None,
        below: float | None = None,
        missing_is_good: bool | None = None,
    ) -> None:
        """Alarm when `of` of the last `minutes` minutes are beyond the threshold."""
        step = 5 if metric.to_metric_config().metric_stat.period.to_minutes() == 5 else 1  # type: ignore[union-attr]  # noqa: PLR2004
        missing = {True: "NOT_BREACHING", False: "BREACHING", None: "MISSING"}[missing_is_good]
        alarm = cloudwatch.Alarm(
            self,
            name,
            alarm_name=alarm_name(self._stage.name, name),
            metric=metric,
            threshold=above if above is not None else below or 0,
            comparison_operator=(
                cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
                if above is not None
                else cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
            ),
            evaluation_periods=minutes // step or 1,
            datapoints_to_alarm=of // step or 1,
            treat_missing_data=cloudwatch.TreatMissingData[missing],
            alarm_description=f"What to do: docs/operations.md, alarm {name}",
        )
        alarm.add_alarm_action(self._action)
        alarm.add_ok_action(self._action)
        self.made[name] = alarm

    def _dashboard(self) -> None:
        dashboard = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=f"tintype-{self._stage.name}")
        dashboard.add_widgets(
            cloudwatch.AlarmStatusWidget(title="Alarms", alarms=list(self.made.values()), width=24, height=4)
        )
        widgets = [
            cloudwatch.AlarmWidget(alarm=alarm, title=name, width=8) for name, alarm in self.made.items()
        ]
        for row in range(0, len(widgets), 3):
            dashboard.add_widgets(*widgets[row : row + 3])


def _connections(stage: Stage) -> int:
    """Return four fifths of what the smallest classes allow; larger ones allow more than the pools can take.

    RDS sets max_connections to memory / 9,531,392 (Amazon RDS User Guide, "Quotas and constraints").
    """
    gib = {"micro": 1, "small": 2, "medium": 4, "large": 8}.get(stage.database_class.partition(".")[2], 16)
    return int(gib * 1024**3 / 9_531_392 * 0.8)
