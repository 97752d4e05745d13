-- From version 3 to version 4: a run has the kind of the reason that stopped it.
-- A row gets a new checksum only if its old one fits. Otherwise it gets -1, which no row has: it stays damaged.
-- row_checksum(table, value, ...) is batchrunner.journal.rows.checksum.

ALTER TABLE runs ADD COLUMN stop_kind TEXT NOT NULL DEFAULT '';
UPDATE runs SET checksum = CASE checksum
    WHEN row_checksum('runs', run_id, name, provider, manifest_path, manifest_sha256, concurrency, started_at,
        finished_at, exit_status, stopped, service, settings_json)
    THEN row_checksum('runs', run_id, name, provider, manifest_path, manifest_sha256, concurrency, started_at,
        finished_at, exit_status, stopped, service, settings_json, stop_kind)
    ELSE -1
END;
