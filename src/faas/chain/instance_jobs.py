"""Jobs 6 to 11: instances. A second run of a job finds its instance as the first one left it."""

import asyncio
import io
import tarfile
from dataclasses import replace
from typing import Final, cast

from faas.chain.codec import (
    ExposePort,
    JobCall,
    PauseInstance,
    ResumeInstance,
    StartInstance,
    StopInstance,
    UploadFiles,
)
from faas.chain.job_context import Answer, Executor, JobContext, required
from faas.chain.state_jobs import made_instance, of_instance
from faas.errors import InvalidArgumentError, UnsupportedError
from faas.executor.instance_records import IdleAction, InstanceSpec
from faas.model import Limits

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_PATH_MAX: Final = 4096
_FILES_MAX: Final = 100_000


async def start_instance(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Make an instance of an image or of a snapshot."""
    job = cast("StartInstance", call)
    if job.enable_ssh:
        raise UnsupportedError("there is no SSH into instances", hint="execute_advanced runs there")
    if job.snapshot and job.image:
        raise InvalidArgumentError("image and snapshot exclude each other: it knows its image")
    spec = InstanceSpec(
        image=job.image or context.settings.default_image,
        snapshot_id=job.snapshot or None,
        limits=_limits(job, context),
        idle_seconds=context.settings.instance_idle_seconds,
        idle_action=IdleAction.STOP,
    )
    return await made_instance(executor, spec, context)


async def stop_instance(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """End its commands and keep its files; done already is done."""
    instance = required(cast("StopInstance", call).instance, "instance")
    record = await executor.instances.stop(instance, context.principal)
    return of_instance(record, output=True)


async def pause_instance(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Freeze it, memory and all. It is its own checkpoint: nothing of it is copied."""
    instance = required(cast("PauseInstance", call).instance, "instance")
    return of_instance(await executor.instances.pause(instance, context.principal))


async def resume_instance(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Let it go on where it was frozen."""
    checkpoint = required(cast("ResumeInstance", call).checkpoint, "checkpoint")
    return of_instance(await executor.instances.resume(checkpoint, context.principal))


async def expose_port(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Let a port be reached from outside; answers an address that opens it.

    The address stands on the chain: whoever reads it there can open the port while its token holds.
    """
    job = cast("ExposePort", call)
    if not context.settings.serves_ports:
        raise UnsupportedError("this operator serves no ports of instances")
    exposure = await executor.instances.ports.expose(
        required(job.instance, "instance"),
        context.principal,
        job.port,
        protocol=job.protocol or "http",
        subdomain=job.subdomain or None,
    )
    record = executor.instances.get(exposure.instance_id, context.principal)
    return of_instance(record, output=exposure.open_url)


async def upload_files(executor: Executor, call: JobCall, context: JobContext) -> Answer:
    """Unpack a tar; answers the bytes of the files in it."""
    job = cast("UploadFiles", call)
    instance = required(job.instance, "instance")
    path = job.path or "/workspace"
    if not path.startswith("/") or "\0" in path or len(path.encode()) > _PATH_MAX:
        raise InvalidArgumentError("the path does not start with `/`, or is too long")
    size = await asyncio.to_thread(_bytes_in, job.archive)
    async with executor.instances.use(instance, context.principal) as (record, sandbox):
        await sandbox.make_dir(path)
        await sandbox.put_archive(job.archive, path=path)
        return of_instance(record, output=size)


def _limits(job: StartInstance, context: JobContext) -> Limits:
    given, most = context.settings.limits, context.settings.ceilings
    wanted = replace(
        given,
        cpu_millis=job.cpu_cores * 1000 or given.cpu_millis,
        memory_bytes=job.memory_mb * _MIB or given.memory_bytes,
        disk_bytes=job.disk_gb * _GIB or given.disk_bytes,
    )
    for name in ("cpu_millis", "memory_bytes", "disk_bytes"):
        if getattr(wanted, name) > getattr(most, name):
            raise InvalidArgumentError(
                f"{name} {getattr(wanted, name)} is above this operator's {getattr(most, name)}"
            )
    return wanted


def _bytes_in(archive: bytes) -> int:
    size = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as members:
            for number, member in enumerate(members):
                if number >= _FILES_MAX:
                    raise InvalidArgumentError(f"the archive has above {_FILES_MAX} entries")
                size += member.size if member.isreg() else 0
    except (tarfile.TarError, OSError, ValueError) as failure:
        raise InvalidArgumentError("the archive is no tar") from failure
    return size
