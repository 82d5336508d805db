-- All SQL of the ledger, by name. `migrate_N` brings a file from version N-1 to N.

-- name: migrate_1
CREATE TABLE executions (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    state TEXT NOT NULL,             -- queued or running; the final state is in outcomes
    is_detached INTEGER NOT NULL,
    idempotency_key TEXT,
    request_digest TEXT,
    runtime TEXT,
    sandbox_id TEXT,
    created_us INTEGER NOT NULL,
    started_us INTEGER,
    spec BLOB NOT NULL               -- without the content of files, archive and stdin
);
CREATE UNIQUE INDEX executions_by_tenant ON executions (tenant, id);
CREATE UNIQUE INDEX executions_by_key ON executions (tenant, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE TABLE outcomes (
    seq INTEGER PRIMARY KEY,
    state TEXT NOT NULL,             -- finished or failed
    finished_us INTEGER NOT NULL,
    outcome BLOB NOT NULL,
    stdout_bytes INTEGER NOT NULL,
    stderr_bytes INTEGER NOT NULL,
    is_spooled INTEGER NOT NULL,     -- output is in the spool, not in the blob
    bytes INTEGER NOT NULL
);
CREATE TABLE payloads (
    seq INTEGER PRIMARY KEY,
    spec BLOB NOT NULL               -- whole, for an execution that may have to run after a restart
);

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM executions;

-- name: totals
SELECT count(*), coalesce(sum(bytes), 0) FROM outcomes;

-- name: count_live
SELECT (SELECT count(*) FROM executions) - (SELECT count(*) FROM outcomes);

-- name: begin
INSERT INTO executions (seq, id, tenant, state, is_detached, idempotency_key, request_digest,
                        runtime, sandbox_id, created_us, started_us, spec)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: keep_payload
INSERT INTO payloads (seq, spec) VALUES (?, ?);

-- name: place
UPDATE executions SET state = ?, runtime = ?, sandbox_id = ?, started_us = ? WHERE seq = ?;

-- name: finish
INSERT INTO outcomes (seq, state, finished_us, outcome, stdout_bytes, stderr_bytes, is_spooled, bytes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: release_key
UPDATE executions SET idempotency_key = NULL WHERE seq = ?;

-- name: drop_payload
DELETE FROM payloads WHERE seq = ?;

-- name: find_key
SELECT id, request_digest FROM executions WHERE tenant = ? AND idempotency_key = ?;

-- name: get
SELECT e.id, e.tenant, coalesce(o.state, e.state), e.created_us, e.started_us, o.finished_us,
       e.spec, o.outcome, o.stdout_bytes, o.stderr_bytes, o.is_spooled
FROM executions e LEFT JOIN outcomes o ON o.seq = e.seq
WHERE e.tenant = ? AND e.id = ?;

-- name: list
SELECT e.id, e.tenant, coalesce(o.state, e.state), e.created_us, e.started_us, o.finished_us,
       e.spec, o.outcome, o.stdout_bytes, o.stderr_bytes, o.is_spooled
FROM executions e LEFT JOIN outcomes o ON o.seq = e.seq
WHERE e.tenant = :tenant AND e.id < :before
  AND (:state IS NULL OR coalesce(o.state, e.state) = :state)
ORDER BY e.id DESC LIMIT :limit;

-- name: live
SELECT e.seq, e.id, e.tenant, e.state, e.is_detached, e.idempotency_key, e.request_digest,
       e.runtime, e.sandbox_id, e.created_us, e.started_us, coalesce(p.spec, e.spec)
FROM executions e LEFT JOIN outcomes o ON o.seq = e.seq LEFT JOIN payloads p ON p.seq = e.seq
WHERE o.seq IS NULL ORDER BY e.seq;

-- name: spooled
SELECT e.id FROM executions e JOIN outcomes o ON o.seq = e.seq WHERE o.is_spooled;

-- name: oldest
SELECT e.seq, e.id, o.finished_us, o.bytes, o.is_spooled
FROM outcomes o JOIN executions e ON e.seq = o.seq ORDER BY o.seq LIMIT ?;

-- name: forget_execution
DELETE FROM executions WHERE seq = ?;

-- name: forget_outcome
DELETE FROM outcomes WHERE seq = ?;
