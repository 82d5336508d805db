"""From records to answers."""

import base64
from typing import cast

from msgspec import UNSET, UnsetType

from faas.gateway.wire import (
    CacheReportView,
    DependencyCacheName,
    ExecutionPage,
    ExecutionSummary,
    ExecutionView,
    ExitEvent,
    FailureView,
    TimingsView,
)
from faas.model import CacheReport, ExecutionRecord, ExecutionResult

_SHOWN_ARGUMENTS = 8
_SHOWN_CHARACTERS = 200


def execution(record: ExecutionRecord) -> ExecutionView:
    """The whole of one execution, output included."""
    result = record.result
    if result is None:
        return _without_result(record)
    stdout, stdout_base64 = _text(result.stdout)
    stderr, stderr_base64 = _text(result.stderr)
    timings = result.timings
    return ExecutionView(
        request_id=record.id,
        execution_id=record.id,
        container_id=result.sandbox_id,
        state=record.state.value,
        mode=record.spec.mode.value,
        exit_code=result.exit_code,
        signal=result.signal,
        reason=result.reason.value,
        stdout=stdout,
        output=stdout,
        stderr=stderr,
        logs=stderr,
        stdout_base64=stdout_base64,
        stderr_base64=stderr_base64,
        stdout_truncated=result.stdout_truncated,
        stderr_truncated=result.stderr_truncated,
        stdout_total_bytes=result.stdout_total_bytes,
        stderr_total_bytes=result.stderr_total_bytes,
        duration_ms=result.duration_ms,
        error=_error(result),
        cpu_ms=result.usage.cpu_us / 1000,
        memory_peak_bytes=result.usage.memory_peak_bytes,
        runtime_used=result.runtime_used,
        runtime_reason=result.runtime_reason or None,
        isolation=result.isolation,
        image=record.spec.image,
        image_digest=result.image_digest,
        cache_hit=result.cache_hit,
        snapshot_id=result.snapshot_id,
        instance_id=record.spec.instance_id,
        caches=_caches(result.caches),
        timings=TimingsView(
            timings.queue_us / 1000,
            timings.sandbox_us / 1000,
            timings.exec_us / 1000,
            timings.collect_us / 1000,
        ),
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
    )


def _caches(reports: tuple[CacheReport, ...]) -> list[CacheReportView] | UnsetType:
    if not reports:
        return UNSET
    return [
        CacheReportView(
            cast("DependencyCacheName", one.name),
            one.added,
            one.added_bytes,
            one.refused,
            one.problem,
        )
        for one in reports
    ]


def _without_result(record: ExecutionRecord) -> ExecutionView:
    failure = _failure(record)
    return ExecutionView(
        request_id=record.id,
        execution_id=record.id,
        state=record.state.value,
        mode=record.spec.mode.value,
        image=record.spec.image,
        instance_id=record.spec.instance_id,
        error=None if failure is None else failure.message,
        failure=failure,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
    )


def summary(record: ExecutionRecord) -> ExecutionSummary:
    """One execution as a line of a list."""
    result = record.result
    return ExecutionSummary(
        request_id=record.id,
        execution_id=record.id,
        state=record.state.value,
        mode=record.spec.mode.value,
        command=[text[:_SHOWN_CHARACTERS] for text in record.spec.argv[:_SHOWN_ARGUMENTS]],
        image=record.spec.image,
        exit_code=None if result is None else result.exit_code,
        reason=None if result is None else result.reason.value,
        duration_ms=None if result is None else result.duration_ms,
        runtime_used=None if result is None else result.runtime_used,
        failure=_failure(record),
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
    )


def page(records: list[ExecutionRecord], *, limit: int) -> ExecutionPage:
    """A page of `limit`, from one record more than that when there are more."""
    shown = records[:limit]
    cursor = shown[-1].id if len(records) > limit else None
    return ExecutionPage([summary(record) for record in shown], cursor)


def exit_event(record: ExecutionRecord) -> ExitEvent:
    """How it ended, for the end of a stream."""
    result, failure = record.result, _failure(record)
    if result is None:
        return ExitEvent(
            execution_id=record.id,
            state=record.state.value,
            exit_code=None,
            signal=None,
            reason=None,
            duration_ms=None,
            stdout_total_bytes=None,
            stderr_total_bytes=None,
            stdout_truncated=False,
            stderr_truncated=False,
            error=None if failure is None else failure.message,
            failure=failure,
        )
    return ExitEvent(
        execution_id=record.id,
        state=record.state.value,
        exit_code=result.exit_code,
        signal=result.signal,
        reason=result.reason.value,
        duration_ms=result.duration_ms,
        stdout_total_bytes=result.stdout_total_bytes,
        stderr_total_bytes=result.stderr_total_bytes,
        stdout_truncated=result.stdout_truncated,
        stderr_truncated=result.stderr_truncated,
        error=_error(result),
        failure=None,
    )


def _error(result: ExecutionResult) -> str | None:
    return f"Process exited with code {result.exit_code}" if result.exit_code else None


def _failure(record: ExecutionRecord) -> FailureView | None:
    failure = record.failure
    return None if failure is None else FailureView(failure.code, failure.message, failure.hint)


def _text(data: bytes) -> tuple[str, str | UnsetType]:
    try:
        return data.decode(), UNSET
    except UnicodeDecodeError:
        return data.decode(errors="replace"), base64.b64encode(data).decode()
