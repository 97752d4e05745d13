-- The journal, version 7. One row for each job, one for each attempt; batchrunner/job.py says what they mean.
-- Times are wall time, seconds since the epoch. Columns that end in _json contain one frozen record.
-- The checksums are those of batchrunner/journal/rows.py.

CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    provider TEXT NOT NULL,
    manifest_path TEXT NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    started_at REAL NOT NULL,
    finished_at REAL,
    exit_status INTEGER,
    stopped TEXT NOT NULL,
    service TEXT NOT NULL,
    settings_json TEXT NOT NULL,
    stop_kind TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;

-- The rows of jobs and attempts are in the order in which jobs were first stored, which is that of the manifest, and not
-- in that of the fingerprints: so the rows of jobs that are active at one time are on few pages, and a commit writes few.
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

-- The manifest of the latest run, in its order.
CREATE TABLE entries (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL REFERENCES jobs (fingerprint),
    tags_json TEXT NOT NULL,
    priority INTEGER NOT NULL,
    output_name TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;

-- For counts: the jobs that the entries name.
CREATE INDEX entries_by_job ON entries (fingerprint);

-- Events of the whole batch: changes of call health and of the working cap, stops.
CREATE TABLE timeline_events (
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    call TEXT NOT NULL,
    status TEXT NOT NULL,
    message TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (at, kind, call)
) STRICT;

-- The job of each result file in the run directory. A row is written before the file gets its name.
CREATE TABLE files (
    name TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL REFERENCES jobs (fingerprint),
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Takes that `run --retake` added. fingerprint: of the job's first take. run_id: the run that added it.
CREATE TABLE retakes (
    fingerprint TEXT NOT NULL,
    take INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, take)
) STRICT, WITHOUT ROWID;

-- One row: the journal's id, the number of its last commit, and whether a process has it open for writing. The witness
-- contains the id and the number too. If is_open is 1, no log is beside the journal and no witness exists, the log is lost.
CREATE TABLE mark (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    journal_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
