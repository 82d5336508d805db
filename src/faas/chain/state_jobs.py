"""Jobs 2 to 5: snapshots, restores, branches, merges.

What a job makes is named by the call, so a second run of it finds what the first one made.
"""

from typing import cast

from faas.chain.codec import CreateBranch, CreateSnapshot, JobCall, MergeBranches, RestoreSnapshot
from faas.chain.job_context import Answer, Executor, JobContext, required
from faas.chain.receipts import Means
from faas.errors import InstanceNotFoundError, InvalidArgumentError, SnapshotNotFoundError
from faas.executor.instance_records import IdleAction, InstanceRecord, InstanceSpec
from faas.executor.origins import Wanted
from faas.snapshots import MergeStrategy, SnapshotRecord

_BRANCHES_MAX = 16
_NAME_MAX = 200


async def create_snapshot(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Keep the files of an instance or of an execution."""
    job = cast("CreateSnapshot", call)
    record = await _made(executor, context)
    if record is None:
        wanted = Wanted(_name(job.name), job.description or None)
        record = await _taken(executor, required(job.container, "container"), wanted, context)
    return _of_snapshot(record)


async def restore_snapshot(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Make an instance with the files of a snapshot."""
    job = cast("RestoreSnapshot", call)
    found = await executor.origins.snapshots.get(
        required(job.snapshot, "snapshot"), tenant=context.principal.tenant.id
    )
    spec = InstanceSpec(
        image=found.image or found.image_digest,
        snapshot_id=found.id,
        limits=context.settings.limits,
        idle_seconds=context.settings.instance_idle_seconds,
        idle_action=IdleAction.STOP,
    )
    return await made_instance(executor, spec, context)


async def create_branch(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Branch off a snapshot, or off what an instance or execution holds now."""
    job = cast("CreateBranch", call)
    record = await _made(executor, context)
    if record is None:
        wanted = Wanted(_name(job.name))
        record = await _taken(executor, required(job.parent, "parent"), wanted, context)
    return _of_snapshot(record)


async def merge_branches(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Merge branches against their nearest common parent."""
    job = cast("MergeBranches", call)
    if len(job.others) >= _BRANCHES_MAX:
        raise InvalidArgumentError(f"a merge takes at most {_BRANCHES_MAX} branches")
    strategy = _strategy(job.strategy)
    record = await _made(executor, context)
    if record is None:
        references = (required(job.first, "first branch"), *job.others)
        found = [await executor.origins.snapshot_of(x, context.principal) for x in references]
        record, _ = await executor.origins.snapshots.merge(
            [each.id for each in found],
            strategy=strategy,
            tenant=context.principal.tenant.id,
            name=None,
            snapshot_id=context.snapshot_id,
        )
    return _of_snapshot(record)


async def made_instance(executor: Executor, spec: InstanceSpec, context: JobContext) -> Answer:
    """Make the instance of this call, or find that it is made."""
    try:
        record = executor.instances.get(context.instance_id, context.principal)
    except InstanceNotFoundError:
        record = await executor.instances.create(
            spec, context.principal, instance_id=context.instance_id
        )
    return of_instance(record)


def of_instance(record: InstanceRecord, output: object | None = None) -> Answer:
    """Answer with an instance."""
    means = Means(
        record.image_digest,
        record.runtime or "",
        record.isolation,
        Means.limits_of(record.spec.limits),
    )
    return Answer(record.id if output is None else output, record.id, means)


async def _made(executor: Executor, context: JobContext) -> SnapshotRecord | None:
    try:
        return await executor.origins.snapshots.get(
            context.snapshot_id, tenant=context.principal.tenant.id
        )
    except SnapshotNotFoundError:
        return None


async def _taken(
    executor: Executor, reference: str, wanted: Wanted, context: JobContext
) -> SnapshotRecord:
    principal, store = context.principal, executor.origins.snapshots
    if reference.startswith(("exec-", "sbx-", "snap-")):
        found = await executor.origins.snapshot_of(reference, principal, wanted)
    else:
        instances = executor.instances
        info = instances.describe(
            reference,
            principal,
            name=wanted.name,
            description=wanted.description,
            # So that what was done in instances of one origin can be merged.
            parent=instances.get(reference, principal).spec.snapshot_id,
        )
        found = await instances.snapshot(
            reference, principal, info, snapshot_id=context.snapshot_id
        )
    if found.id == context.snapshot_id:
        return found
    # A snapshot that was there already is the execution's or the instance's own, and may go with
    # it: the job's is a child of it.
    return await store.branch(
        found.id,
        tenant=principal.tenant.id,
        name=wanted.name,
        description=wanted.description,
        snapshot_id=context.snapshot_id,
    )


def _of_snapshot(record: SnapshotRecord) -> Answer:
    return Answer(record.id, record.id, Means(record.image_digest, ",".join(record.runtimes)))


def _name(text: str) -> str | None:
    if len(text) > _NAME_MAX:
        raise InvalidArgumentError(f"a name has at most {_NAME_MAX} characters")
    return text or None


def _strategy(text: str) -> MergeStrategy:
    try:
        return MergeStrategy(text or MergeStrategy.UNION)
    except ValueError:
        able = ", ".join(strategy.value for strategy in MergeStrategy)
        raise InvalidArgumentError(f"there is no such strategy; there are {able}") from None
