-- The account's index, version 4. One file for all accounts of a user on this machine; batchrunner/account/rows.py says
-- what the columns mean, and batchrunner/account/checksums.py what the checksums cover. Times are wall time, seconds since the epoch. Amounts are credits.

CREATE TABLE batches (
    batch_id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    directory TEXT NOT NULL,
    name TEXT NOT NULL,
    service TEXT NOT NULL,
    priority INTEGER NOT NULL,
    opened_at REAL NOT NULL,
    sequence INTEGER,
    epoch INTEGER NOT NULL,
    is_current INTEGER NOT NULL CHECK (is_current IN (0, 1)),
    waits_since REAL NOT NULL,
    waits_until REAL NOT NULL,
    checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a batch's journal says of its jobs. There is no index by batch: each claim would write to one, and only the start
-- of a run, which reads every row for its checksum anyway, looks for all rows of a batch. A claim is the only row that is in the index first.
-- The rows of jobs and submissions are in the order in which they were added, and not in that of their keys, which is random:
-- so the rows of jobs that are active at one time are on few pages, and a commit writes few.
CREATE TABLE jobs (
    account TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    batch_id TEXT NOT NULL REFERENCES batches,
    state TEXT NOT NULL
        CHECK (state IN ('claimed', 'submitting', 'in_flight', 'in_doubt', 'succeeded', 'withheld', 'failed')),
    request_id TEXT,
    generation_id TEXT,
    submitted_at REAL,
    takes_slot INTEGER NOT NULL CHECK (takes_slot IN (0, 1)),
    slot_until REAL,
    file TEXT,
    size_bytes INTEGER,
    sha256 TEXT,
    result_json TEXT,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (account, fingerprint, batch_id)
) STRICT;

CREATE INDEX jobs_by_slot ON jobs (account, batch_id) WHERE takes_slot = 1;

-- Generations that are known to have ended, and whose batch does not know it yet.
CREATE TABLE ended (
    account TEXT NOT NULL,
    generation_id TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (account, generation_id)
) STRICT, WITHOUT ROWID;

-- charge: the settled amount, from the provider's transactions.
CREATE TABLE submissions (
    account TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    batch_id TEXT NOT NULL REFERENCES batches,
    model TEXT NOT NULL,
    generation_id TEXT,
    at REAL NOT NULL,
    estimate REAL,
    quote REAL,
    cost REAL NOT NULL,
    outcome TEXT NOT NULL,
    charge REAL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (account, request_id)
) STRICT;

CREATE INDEX submissions_by_generation ON submissions (account, generation_id) WHERE generation_id IS NOT NULL;

-- The sum of the submissions' costs on each UTC day, kept by the triggers below.
CREATE TABLE spend_by_day (
    account TEXT NOT NULL,
    day INTEGER NOT NULL,
    cost REAL NOT NULL,
    PRIMARY KEY (account, day)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER submission_added AFTER INSERT ON submissions BEGIN
    INSERT INTO spend_by_day VALUES (new.account, CAST(new.at / 86400 AS INTEGER), new.cost)
    ON CONFLICT (account, day) DO UPDATE SET cost = cost + excluded.cost;
END;

CREATE TRIGGER submission_changed AFTER UPDATE OF account, at, cost ON submissions
WHEN old.account <> new.account OR old.at <> new.at OR old.cost <> new.cost BEGIN
    UPDATE spend_by_day SET cost = cost - old.cost
    WHERE account = old.account AND day = CAST(old.at / 86400 AS INTEGER);
    INSERT INTO spend_by_day VALUES (new.account, CAST(new.at / 86400 AS INTEGER), new.cost)
    ON CONFLICT (account, day) DO UPDATE SET cost = cost + excluded.cost;
END;

CREATE TRIGGER submission_removed AFTER DELETE ON submissions BEGIN
    UPDATE spend_by_day SET cost = cost - old.cost
    WHERE account = old.account AND day = CAST(old.at / 86400 AS INTEGER);
END;

-- Charges from the provider's transactions, by the generation that they are for.
CREATE TABLE charges (
    account TEXT NOT NULL,
    reference_id TEXT NOT NULL,
    credits REAL NOT NULL,
    at REAL NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (account, reference_id)
) STRICT, WITHOUT ROWID;

-- A time during which no batch of the account submits, because the service throttles or refuses the account.
CREATE TABLE throttles (
    account TEXT PRIMARY KEY,
    until REAL NOT NULL,
    why TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
