-- From version 6 to version 7: jobs and attempts are in the order of the manifest, not of the fingerprints. No value and no
-- checksum changes. Jobs that the manifest of the latest run does not name come last. An attempt without a job is refused.

ALTER TABLE jobs RENAME TO old_jobs;
ALTER TABLE attempts RENAME TO old_attempts;
ALTER TABLE entries RENAME TO old_entries;
ALTER TABLE files RENAME TO old_files;

CREATE TABLE jobs (
    job INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    job_json TEXT NOT NULL,
    job_checksum INTEGER NOT NULL,
    state TEXT NOT NULL,
    error_json TEXT,
    result_json TEXT,
    checksum INTEGER NOT NULL
) STRICT;
INSERT INTO jobs (fingerprint, job_json, job_checksum, state, error_json, result_json, checksum)
SELECT fingerprint, job_json, job_checksum, state, error_json, result_json, checksum FROM old_jobs
ORDER BY (SELECT min(position) FROM old_entries WHERE old_entries.fingerprint = old_jobs.fingerprint) NULLS LAST, fingerprint;

CREATE TABLE attempts (
    job INTEGER NOT NULL REFERENCES jobs,
    fingerprint TEXT NOT NULL,
    number INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    generation_id TEXT,
    outcome TEXT,
    error_json TEXT,
    accepted_at REAL,
    generating_at REAL,
    completed_at REAL,
    ended_at REAL,
    credits REAL,
    estimate REAL,
    polls INTEGER NOT NULL,
    settled REAL,
    settled_at REAL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
INSERT INTO attempts (job, fingerprint, number, request_id, submitted_at, generation_id, outcome, error_json,
    accepted_at, generating_at, completed_at, ended_at, credits, estimate, polls, settled, settled_at, checksum)
SELECT job, old.fingerprint, number, request_id, submitted_at, generation_id, outcome, old.error_json,
    accepted_at, generating_at, completed_at, ended_at, credits, estimate, polls, settled, settled_at, old.checksum
FROM old_attempts AS old LEFT JOIN jobs ON jobs.fingerprint = old.fingerprint ORDER BY job, number;

CREATE TABLE entries (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL REFERENCES jobs (fingerprint),
    tags_json TEXT NOT NULL,
    priority INTEGER NOT NULL,
    output_name TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
INSERT INTO entries (position, id, fingerprint, tags_json, priority, output_name, checksum)
SELECT position, id, fingerprint, tags_json, priority, output_name, checksum FROM old_entries ORDER BY position;

CREATE TABLE files (
    name TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL REFERENCES jobs (fingerprint),
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO files (name, fingerprint, sha256, size_bytes, checksum)
SELECT name, fingerprint, sha256, size_bytes, checksum FROM old_files ORDER BY name;

DROP TABLE old_files;
DROP TABLE old_entries;
DROP TABLE old_attempts;
DROP TABLE old_jobs;
CREATE INDEX entries_by_job ON entries (fingerprint);
