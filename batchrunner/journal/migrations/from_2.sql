-- From version 2 to version 3: the timeline gets its present names.
-- A row gets a new checksum only if its old one fits. Otherwise it gets -1, which no row has: it stays damaged.
-- row_checksum(table, value, ...) is batchrunner.journal.rows.checksum.

ALTER TABLE happenings RENAME TO timeline_events;
ALTER TABLE timeline_events RENAME COLUMN about TO call;
ALTER TABLE timeline_events RENAME COLUMN word TO status;
UPDATE timeline_events SET
    kind = CASE kind WHEN 'weather' THEN 'call_health' ELSE kind END,
    checksum = CASE checksum
        WHEN row_checksum('happenings', at, kind, call, status, message)
        THEN row_checksum('timeline_events', at, CASE kind WHEN 'weather' THEN 'call_health' ELSE kind END, call,
            status, message)
        ELSE -1
    END;
