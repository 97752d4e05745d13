-- From version 4 to version 5: an attempt has its settled charge.
-- A row gets a new checksum only if its old one fits. Otherwise it gets -1, which no row has: it stays damaged.
-- row_checksum(table, value, ...) is batchrunner.journal.rows.checksum.

ALTER TABLE attempts ADD COLUMN settled REAL;
ALTER TABLE attempts ADD COLUMN settled_at REAL;
UPDATE attempts SET checksum = CASE checksum
    WHEN row_checksum('attempts', fingerprint, number, request_id, submitted_at, generation_id,
        outcome, error_json, accepted_at, generating_at, completed_at, ended_at, credits, estimate, polls)
    THEN row_checksum('attempts', fingerprint, number, request_id, submitted_at, generation_id,
        outcome, error_json, accepted_at, generating_at, completed_at, ended_at, credits, estimate, polls,
        settled, settled_at)
    ELSE -1
END;
