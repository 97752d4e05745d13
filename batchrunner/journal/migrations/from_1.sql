-- From version 1 to version 2: a checksum for each row, and the journal's id with the number of its last commit.
-- row_checksum(table, value, ...) is batchrunner.journal.rows.checksum.

ALTER TABLE runs ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE runs SET checksum = row_checksum('runs', run_id, name, provider, manifest_path, manifest_sha256, concurrency,
    started_at, finished_at, exit_status, stopped, service, settings_json);

ALTER TABLE jobs ADD COLUMN job_checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET job_checksum = row_checksum('jobs', fingerprint, job_json),
    checksum = row_checksum('standing', fingerprint, state, error_json, result_json);

ALTER TABLE attempts ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE attempts SET checksum = row_checksum('attempts', fingerprint, number, request_id, submitted_at, generation_id,
    outcome, error_json, accepted_at, generating_at, completed_at, ended_at, credits, estimate, polls);

ALTER TABLE entries ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE entries SET checksum = row_checksum('entries', position, id, fingerprint, tags_json, priority, output_name);

ALTER TABLE happenings ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE happenings SET checksum = row_checksum('happenings', at, kind, about, word, message);

ALTER TABLE files ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE files SET checksum = row_checksum('files', name, fingerprint, sha256, size_bytes);

ALTER TABLE mark RENAME TO old_mark;
CREATE TABLE mark (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    journal_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
INSERT INTO mark SELECT 1, lower(hex(randomblob(16))), 0, is_open, 0 FROM old_mark;
UPDATE mark SET checksum = row_checksum('mark', only, journal_id, sequence, is_open);
DROP TABLE old_mark;
