-- From version 5 to version 6: takes that `run --retake` adds.

CREATE TABLE retakes (
    fingerprint TEXT NOT NULL,
    take INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, take)
) STRICT, WITHOUT ROWID;
